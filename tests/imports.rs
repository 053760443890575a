//! Who may know whom: the rooms of ARCHITECTURE.md, held by the paths that sources name.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Rust sources at and below this path; none if it is not there.
fn sources(path: &str) -> Vec<PathBuf> {
    fn below(path: &Path, found: &mut Vec<PathBuf>) {
        if path.is_dir() {
            for entry in std::fs::read_dir(path).expect("a directory").flatten() {
                below(&entry.path(), found);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") && path.exists() {
            found.push(path.to_owned());
        }
    }
    let mut found = Vec::new();
    below(&root().join(path), &mut found);
    found
}

/// Source code alone: without comments, attributes, the contents of strings, and what is compiled for tests only.
fn code(text: &str) -> String {
    let text = text.split("\n#[cfg(test)]\nmod tests {").next().expect("text");
    let mut code = String::with_capacity(text.len());
    for line in text.lines().map(str::trim_start).filter(|line| !line.starts_with("//") && !line.starts_with("#[")) {
        // Strings hold SQL and texts for people. (Those of several lines leave words behind, but no paths.)
        for (place, part) in line.split('"').enumerate() {
            if place.is_multiple_of(2) {
                code += part.split(" // ").next().expect("a part");
            }
        }
        code.push('\n');
    }
    code
}

/// The paths that code names, with the lists of `use` written out: `crate::storage::{Line, postgres::Pool}` is two.
fn paths(code: &str) -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    // A stack of prefixes, one for each brace that stands behind `::`.
    let (mut prefixes, mut braces): (Vec<String>, Vec<bool>) = (Vec::new(), Vec::new());
    let mut word = String::new();
    for c in code.chars().filter(|c| *c != '\n') {
        match c {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '_' | ':' => word.push(c),
            '{' if word.ends_with("::") => {
                let prefix = prefixes.last().cloned().unwrap_or_default() + &word;
                prefixes.push(prefix);
                braces.push(true);
                word.clear();
            }
            _ => {
                if !word.is_empty() {
                    paths.insert(prefixes.last().cloned().unwrap_or_default() + &word);
                    word.clear();
                }
                match c {
                    '{' => braces.push(false),
                    '}' if braces.pop() == Some(true) => drop(prefixes.pop()),
                    _ => {}
                }
            }
        }
    }
    paths
}

/// Where code names a path that has this segment, or these in a row.
fn named(files: &[PathBuf], segments: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(file).expect("a source");
        for path in paths(&code(&text)) {
            let parts: Vec<&str> = path.split("::").collect();
            for wanted in segments {
                let wanted: Vec<&str> = wanted.split("::").collect();
                if parts.windows(wanted.len()).any(|window| window == wanted) {
                    found.push(format!("{}: {path}", file.strip_prefix(root()).expect("below the root").display()));
                }
            }
        }
    }
    found
}

fn none(found: &[String]) {
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

/// What names a storage of ours.
const STORAGES: &[&str] =
    &["postgres", "sqlite", "backfill_sqlite", "PostgresStorage", "SqliteStorage", "memory", "MemoryStorage"];

#[test]
fn workers_crontabs_and_tasks_name_no_storage() {
    let files = [sources("src/worker"), sources("src/cron"), sources("src/task")].concat();
    assert!(files.len() > 20, "{files:?}");
    none(&named(&files, STORAGES));
    none(&named(&files, &["sqlx"]));
}

#[test]
fn postgresql_knows_neither_workers_nor_clients() {
    let files = sources("src/postgres");
    assert!(files.len() > 20, "{files:?}");
    none(&named(&files, &["crate::worker", "crate::cron", "crate::task", "crate::client", "crate::backends"]));
}

/// What is remembered knows no connection, and the way to the database knows no verb.
#[test]
fn postgresql_has_three_floors() {
    let (state, connection) = (sources("src/postgres/state"), sources("src/postgres/connection"));
    assert!(state.len() > 2 && connection.len() > 10, "{state:?} {connection:?}");
    none(&named(&state, &["sqlx", "connection", "PostgresStorage", "super::super"]));
    let verbs = std::fs::read_dir(root().join("src/postgres")).expect("a directory").flatten();
    let verbs = verbs.map(|entry| entry.path().file_stem().expect("a name").to_string_lossy().into_owned());
    let verbs: Vec<String> = verbs
        .filter(|name| !["state", "connection", "mod"].contains(&name.as_str()))
        .map(|name| format!("postgres::{name}"))
        .collect();
    assert!(verbs.len() > 15, "{verbs:?}");
    let above: Vec<&str> = verbs.iter().map(String::as_str).chain(["PostgresStorage", "super::super"]).collect();
    none(&named(&connection, &above));
}

#[test]
fn backends_and_clients_alone_name_storages() {
    // (In the test kit, what makes a queue for a test.)
    let kit = ["src/testing/place.rs", "src/testing/each_storage.rs"];
    let (storages, names_them) = (["src/postgres"], ["src/backends.rs", "src/backends", "src/client"]);
    let may = |file: &PathBuf| {
        let file = file.strip_prefix(root()).expect("below the root");
        storages.iter().chain(&names_them).chain(&kit).any(|path| file.starts_with(path))
    };
    // They only show the modules to users.
    let shows = ["src/lib.rs", "src/storage/mod.rs"].map(|file| root().join(file));
    let files: Vec<PathBuf> = sources("src").into_iter().filter(|file| !may(file) && !shows.contains(file)).collect();
    assert!(files.len() > 30, "{files:?}");
    none(&named(&files, STORAGES));
}

#[test]
fn the_core_names_no_driver() {
    let drivers = ["sqlx", "redis", "mongodb", "rusqlite", "tokio_postgres"];
    none(&named(&sources("crates/backfill-core/src"), &drivers));
    let manifest = std::fs::read_to_string(root().join("crates/backfill-core/Cargo.toml")).expect("the manifest");
    let dependencies: Vec<&str> =
        manifest.lines().filter(|line| drivers.iter().any(|driver| line.starts_with(driver))).collect();
    assert!(dependencies.is_empty(), "{dependencies:?}");
}

/// Workflows: policy knows rows, and rows know no policy. Only what opens a URL names a storage.
#[test]
fn storages_of_workflows_know_no_policy() {
    let room = |name: &str| {
        let name = format!("crates/backfill-workflow/src/{name}");
        [sources(&name), sources(&format!("{name}.rs"))].concat()
    };
    let storages = [room("store"), room("postgres"), room("sqlite")].concat();
    assert!(storages.len() > 20, "{storages:?}");
    none(&named(&storages, &["crate::engine", "crate::ctx", "crate::client", "crate::workflow", "crate::options"]));
    let policy =
        [room("engine"), room("ctx"), room("client"), room("options"), room("queue"), room("workflow")].concat();
    assert!(policy.len() > 25, "{policy:?}");
    none(&named(&policy, &["crate::postgres", "crate::sqlite", "PostgresStore", "SqliteStore", "MemoryStore"]));
    // The user's own transactions have the driver's connections.
    let others: Vec<PathBuf> = policy
        .into_iter()
        .filter(|file| !file.ends_with("ctx/tx.rs") && !file.ends_with("engine/builder.rs"))
        .collect();
    none(&named(&others, &["sqlx"]));
}

#[test]
fn paths_are_read_from_lists_and_not_from_comments() {
    let text = "use crate::storage::{Line, postgres::{Pool, Other}};\n// crate::worker\nfn f() { crate::cron::g(\"crate::task\") }";
    let expected = ["crate::storage::Line", "crate::storage::postgres::Pool", "crate::storage::postgres::Other"];
    let paths = paths(&code(text));
    assert!(expected.iter().all(|path| paths.contains(*path)), "{paths:?}");
    assert!(
        paths.contains("crate::cron::g") && !paths.iter().any(|path| path.contains("worker") || path.contains("task"))
    );
}
