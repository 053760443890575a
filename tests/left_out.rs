//! Says in one line what `cargo test` alone has left out: a test that is not built says nothing itself.

use std::fs;
use std::path::Path;

/// What files that are built only with the feature have in `Cargo.toml`, and tests that are ignored without it in the code.
const FILE: &str = "required-features = [\"server-tests\"]";
const PART: &str = "not(feature = \"server-tests\")";

fn main() {
    // Whoever asks for the names of tests wants nothing else.
    if cfg!(feature = "server-tests") || std::env::args().any(|argument| argument == "--list") {
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut files, mut parts) = (0, 0);
    for package in [".", "crates/backfill-cli", "crates/backfill-redis"] {
        let package = root.join(package);
        files += fs::read_to_string(package.join("Cargo.toml")).expect("it is read").matches(FILE).count();
        for file in fs::read_dir(package.join("tests")).expect("it is listed") {
            parts += usize::from(has_part(&file.expect("it is listed").path()));
        }
    }
    println!(
        "left out: {files} test files and parts of {parts} others, which need PostgreSQL, Redis or Node. ./scripts/test runs all"
    );
}

/// Whether a test file has such tests. What can be listed is one of several modules.
fn has_part(path: &Path) -> bool {
    match fs::read_dir(path) {
        Ok(modules) => modules.flatten().any(|module| has_part(&module.path())),
        Err(_) => fs::read_to_string(path).is_ok_and(|code| code.contains(PART)),
    }
}
