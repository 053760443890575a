//! What README promises of its programs.

use std::process::Command;

const README: &str = include_str!("../README.md");
const FIRST: &str = include_str!("../examples/first.rs");

/// The first block of Rust in README.
fn first_program() -> &'static str {
    let rest = README.split_once("```rust").expect("a program").1;
    let rest = rest.split_once('\n').expect("lines").1;
    rest.split_once("```").expect("its end").0
}

#[test]
fn the_first_program_of_the_readme_is_short_and_is_the_example_that_is_compiled() {
    assert_eq!(first_program(), FIRST);
    assert!(FIRST.lines().count() <= 25, "{} lines", FIRST.lines().count());
}

#[test]
fn the_first_program_of_the_readme_runs_as_it_stands() {
    let directory = tempfile::tempdir().expect("a directory");
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let mut program = Command::new(env!("CARGO"));
    program.args(["run", "--quiet", "--locked", "--manifest-path", manifest, "--example", "first"]);
    let ran = program.current_dir(directory.path()).output().expect("cargo");
    let (out, err) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{err}");
    assert_eq!(out, "the invoice for order 17 is sent\n1 done\n", "{err}");
    assert!(directory.path().join("jobs.db").exists());
}
