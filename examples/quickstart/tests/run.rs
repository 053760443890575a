//! What the first program that anybody runs leaves and says.

use std::path::Path;
use std::process::Command;

#[test]
fn the_quickstart_runs_again_and_again_in_a_file_of_its_own() {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("quickstart");
    // Of an earlier run of this test.
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory).expect("a directory");
    for _ in 0..2 {
        let mut program = Command::new(env!("CARGO_BIN_EXE_quickstart"));
        program.env("HOME", &directory).env("XDG_DATA_HOME", &directory).env_remove("DATABASE_URL");
        let ran = program.output().expect("it runs");
        let (out, err) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
        assert!(ran.status.success(), "{out}{err}");
        assert!(out.contains("quickstart.db\n") && out.contains("\n363 jobs done in "), "{out}");
        assert!(
            out.contains("\nsend_email      301      1\n") && out.contains("\nflaky             3      2\n"),
            "{out}"
        );
        assert!(out.contains("\nnext: ") && out.ends_with("quickstart.db' jobs\n"), "{out}");
        assert!(!out.contains('\x1b') && !out.contains('\r'), "no bar off a terminal: {out}");
    }
    #[cfg(target_os = "linux")]
    {
        let entries = std::fs::read_dir(directory.join("backfill")).expect("a directory");
        let left: Vec<_> = entries.map(|entry| entry.expect("an entry").file_name()).collect();
        assert_eq!(left, ["quickstart.db"]);
    }
}
