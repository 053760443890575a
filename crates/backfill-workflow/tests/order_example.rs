//! The example does what its page and the README say of it.
#![allow(clippy::unwrap_used, reason = "what fails here is a failed test")]

use std::process::{Command, Output};

use tempfile::TempDir;

/// Runs `cargo run --example order` as far as it is built already.
fn order(directory: &TempDir, failpoints: Option<&str>, database: Option<&str>) -> Output {
    let tests = std::env::current_exe().unwrap();
    let program = tests.parent().unwrap().parent().unwrap().join("examples").join("order");
    let mut command = Command::new(program);
    command.env("TMPDIR", directory.path()).env_remove("DATABASE_URL").env_remove("FAILPOINTS");
    if let Some(failpoints) = failpoints {
        command.env("FAILPOINTS", failpoints);
    }
    if let Some(url) = database {
        command.env("DATABASE_URL", url);
    }
    command.output().unwrap()
}

fn an_order_that_died_after_its_charge_is_finished_without_another(database: Option<&str>) {
    let directory = tempfile::tempdir().unwrap();
    let text = |output: &Output| String::from_utf8_lossy(&output.stdout).into_owned();
    let well = order(&directory, None, database);
    assert!(well.status.success(), "{well:?}");
    for line in ["charging 49.90 EUR", "shipping a book", "telling the customer", "done: payment"] {
        assert!(text(&well).contains(line), "{}", text(&well));
    }
    let dies = order(&directory, Some("after_charge=return"), database);
    assert_eq!(dies.status.code(), Some(1), "{dies:?}");
    assert!(text(&dies).contains("charging") && !text(&dies).contains("shipping"), "{}", text(&dies));
    let rest = order(&directory, None, database);
    assert!(rest.status.success(), "{rest:?}");
    let rest = text(&rest);
    assert!(rest.contains("was interrupted") && rest.contains("nobody is charged again"), "{rest}");
    assert!(!rest.contains("charging") && rest.contains("shipping a book") && rest.contains("done: payment"), "{rest}");
}

#[test]
fn an_order_in_a_file_that_died_after_its_charge_is_finished_without_another() {
    an_order_that_died_after_its_charge_is_finished_without_another(None);
}

#[cfg(feature = "server-tests")]
#[test]
fn an_order_in_postgresql_that_died_after_its_charge_is_finished_without_another() {
    let url =
        std::env::var("BACKFILL_TEST_DATABASE_URL").expect("BACKFILL_TEST_DATABASE_URL, as ./scripts/test sets it");
    an_order_that_died_after_its_charge_is_finished_without_another(Some(&url));
}
