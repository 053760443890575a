//! What people see on a terminal, and what programs get that read it from a pipe.
#![cfg(target_os = "linux")]

mod common;

use std::process::Stdio;

use common::support::soon;
use common::{Ran, binary, on_a_terminal, shell_on_a_terminal, signal};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use unicode_width::UnicodeWidthStr;

/// A directory with a file of jobs.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(TempDir::new().expect("a directory"))
    }

    async fn ended(mut command: Command) -> Ran {
        command.env("DATABASE_URL", "sqlite://jobs.db");
        soon("it ends", command.output()).await.expect("it runs").into()
    }

    /// Into a pipe.
    async fn run(&self, args: &[&str]) -> Ran {
        let mut command = binary(self.0.path());
        command.args(args);
        Self::ended(command).await
    }

    /// On a terminal so wide, with these variables.
    async fn shown(&self, columns: u16, args: &str, variables: &[(&str, &str)]) -> String {
        let mut command = on_a_terminal(self.0.path(), columns, 24, args);
        command.envs(variables.iter().copied());
        Self::ended(command).await.out.replace("\r\n", "\n")
    }

    /// A job that is ready, one for later, and one that is dead, with long names and errors.
    async fn with_jobs() -> Self {
        let place = Self::new();
        let long = "a_task_with_a_name_that_is_much_too_long_for_its_column".to_owned();
        place.run(&["add", &long, "--queue", "a queue with a long name of its own", "--key", "名前"]).await.ok();
        place.run(&["add", "later", "--in", "1h"]).await.ok();
        place.run(&["add", "bad"]).await.ok();
        let reason = format!("\x1b[2J\x1b]0;title\x07 it failed {}\nand more", "for a long reason ".repeat(20));
        place.run(&["discard", "3", "--reason", &reason]).await.ok();
        place
    }
}

/// The text without what changes colours.
fn plain(text: &str) -> String {
    let mut parts = text.split("\x1b[");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (code, rest) = part.split_once('m').expect("only colours");
        assert!(code.bytes().all(|byte| byte.is_ascii_digit() || byte == b';'), "only colours: {text:?}");
        plain += rest;
    }
    plain
}

const TABLES: [&str; 6] = ["jobs", "stats", "tasks", "queues", "workers", "doctor"];

#[tokio::test]
async fn no_line_of_a_table_is_wider_than_the_terminal() {
    let place = Place::with_jobs().await;
    for columns in [80, 60, 40] {
        for args in TABLES {
            let shown = plain(&place.shown(columns, args, &[]).await);
            for line in shown.lines() {
                assert!(line.width() <= columns.into(), "{args} at {columns}: {line:?}");
                assert!(!line.chars().any(char::is_control), "{args}: {line:?}");
            }
        }
    }
    let shown = plain(&place.shown(80, "jobs", &[]).await);
    assert!(shown.contains("a_task_…") && shown.contains("  dead  "), "{shown}");
}

#[tokio::test]
async fn off_a_terminal_nothing_is_cut_or_coloured() {
    let place = Place::with_jobs().await;
    let told = place.run(&["jobs"]).await.ok();
    assert!(told.contains("a_task_with_a_name_that_is_much_too_long_for_its_column"), "{told}");
    assert!(told.contains(&"for a long reason ".repeat(20)) && told.contains("\\nand more"), "{told}");
    assert_eq!(told.lines().count(), 4, "a job is a line: {told}");
    for args in TABLES {
        let told = place.run(&[args]).await.out;
        assert!(!told.contains('\x1b') && !told.contains('…'), "{args}: {told}");
    }
}

#[tokio::test]
async fn states_have_colours_on_a_terminal_unless_nobody_wants_them() {
    const DEAD: &str = "\x1b[1;31mdead\x1b[0m";
    let place = Place::with_jobs().await;
    let shown = place.shown(80, "jobs", &[]).await;
    assert!(shown.contains(DEAD) && shown.contains("\x1b[36mscheduled\x1b[0m"), "{shown:?}");
    assert!(!shown.contains("\x1b[2J") && !shown.contains("\x1b]"), "what was stored is not obeyed: {shown:?}");
    for (args, variables, expected) in [
        ("jobs", &[("NO_COLOR", "1")][..], false),
        ("jobs", &[("NO_COLOR", "")], true),
        ("jobs", &[("CLICOLOR", "0")], false),
        ("jobs", &[("TERM", "dumb")], false),
        ("jobs --color never", &[], false),
        ("jobs --color=always", &[("NO_COLOR", "1")], true),
    ] {
        let shown = place.shown(80, args, variables).await;
        assert_eq!(shown.contains(DEAD), expected, "{args} {variables:?}: {shown:?}");
        assert!(shown.contains("dead"), "{shown:?}");
    }
    assert!(place.run(&["jobs", "--color", "always"]).await.ok().contains(DEAD));
    let mut forced = binary(place.0.path());
    forced.arg("jobs").env("CLICOLOR_FORCE", "1");
    assert!(Place::ended(forced).await.ok().contains(DEAD));
    for args in ["job 77 --color=always", "jobs --nosuch --color=always"] {
        let refused = place.run(&args.split(' ').collect::<Vec<_>>()).await;
        assert!(refused.err.starts_with("\x1b[1"), "{args}: {:?}", refused.err);
    }
    let json = place.run(&["jobs", "--json", "--color", "always"]).await.ok();
    assert!(!json.contains('\x1b'), "{json}");
}

#[tokio::test]
async fn the_log_is_short_on_a_terminal_and_whole_off_it() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    std::fs::create_dir(place.0.path().join("tasks")).expect("a directory");
    let programs = [
        ("hello", "printf 'hello \\033[2J'"),
        ("bad", "echo 'it is bad for reasons that are longer than this terminal is wide, I am afraid' >&2; exit 3"),
    ];
    for (name, text) in programs {
        let path = place.0.path().join("tasks").join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("write");
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("executable");
    }
    let add = async || {
        place.run(&["add", "hello"]).await.ok();
        place.run(&["add", "bad", "--max-attempts", "1"]).await.ok();
    };
    add().await;
    let shown = plain(&place.shown(80, "worker --once", &[]).await);
    for line in shown.lines() {
        assert!(line.width() <= 80 && !line.chars().any(char::is_control), "{line:?}: {shown}");
    }
    for part in
        [" hello #1 done in ", " hello #1: hello \\u{1b}[2J\n", " bad #2 dead: no attempts left: exit status: 3: "]
    {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert!(!shown.contains("DEBUG"), "{shown}");
    add().await;
    let logged = place.run(&["worker", "--once"]).await.err;
    assert!(logged.contains("DEBUG the job is done job=3 task=\"hello\" attempt=1 took="), "{logged}");
}

#[tokio::test]
async fn the_short_help_of_a_worker_is_one_screen_and_the_long_one_is_in_groups() {
    let place = Place::new();
    let short = plain(&place.shown(80, "worker -h", &[]).await);
    assert!(short.trim_end().lines().count() < 24, "{short}");
    for option in ["--tasks", "--once", "--concurrency", "--timeout", "--crontab", "--database-url"] {
        assert!(short.contains(option), "{option}: {short}");
    }
    let long = plain(&place.shown(80, "worker --help", &[]).await);
    let headings: Vec<&str> = long.lines().filter(|line| line.ends_with(':') && !line.starts_with(' ')).collect();
    assert_eq!(
        headings,
        [
            "Options:",
            "Tasks:",
            "Limits:",
            "Crontab:",
            "How jobs are found:",
            "Prefetching:",
            "Shutdown:",
            "Dead workers:",
            "Database:",
            "Output:"
        ]
    );
    assert!(long.contains("--heartbeat-interval") && long.contains("The first SIGINT"), "{long}");
}

/// Reads on until this is there.
async fn reads(child: &mut Child, seen: &mut String, what: &str) {
    let begin = seen.len();
    let out = child.stdout.as_mut().expect("stdout");
    let read = async {
        while !seen[begin..].contains(what) {
            let mut bytes = [0; 4096];
            let count = out.read(&mut bytes).await.expect("read");
            assert!(count > 0, "it ends without {what:?}: {seen:?}");
            *seen += &String::from_utf8_lossy(&bytes[..count]);
        }
    };
    let read = tokio::time::timeout(common::support::TIMEOUT, read).await;
    assert!(read.is_ok(), "{what:?} does not come: {seen:?}");
}

const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

#[tokio::test]
async fn stats_are_drawn_in_place_until_a_key_or_a_signal_ends_it() {
    for (end, status) in [("q", 0), ("\x03", 0), ("TERM", 143)] {
        let place = Place::new();
        place.run(&["add", "one"]).await.ok();
        let line = "stty -a > before; $BACKFILL stats --watch 100ms & jobs -p > pid; fg > /dev/null; s=$?; stty -a > after; exit $s";
        let mut command = shell_on_a_terminal(place.0.path(), 80, 24, &format!("set -m; {line}"));
        let mut child = command
            .env("DATABASE_URL", "sqlite://jobs.db")
            .env("SHELL", "/bin/bash")
            .stdin(Stdio::piped())
            .spawn()
            .expect("it runs");
        let mut seen = String::new();
        reads(&mut child, &mut seen, "q ends").await;
        place.run(&["add", "two", "--key", "k"]).await.ok();
        reads(&mut child, &mut seen, "+1").await;
        let frames = seen.matches("\x1b[H").count();
        assert!(frames > 1 && seen.starts_with(ENTER) && !seen.contains(LEAVE), "{seen:?}");
        reads(&mut child, &mut seen, "/s added, 0/s done").await;
        if end == "TERM" {
            let pid = std::fs::read_to_string(place.0.path().join("pid")).expect("a number");
            assert!(Command::new("kill").arg(pid.trim()).status().await.expect("it runs").success());
        } else {
            child.stdin.as_mut().expect("stdin").write_all(end.as_bytes()).await.expect("write");
        }
        reads(&mut child, &mut seen, LEAVE).await;
        let ran = Ran::from(soon("it ends", child.wait_with_output()).await.expect("it ends"));
        assert_eq!(ran.status, Some(status), "{end:?}: {seen} {}", ran.out);
        let settings = |name| std::fs::read_to_string(place.0.path().join(name)).expect("settings");
        assert_eq!(settings("before"), settings("after"), "{end:?}");
        assert!(!place.0.path().join("jobs.db-wal").exists(), "it closes the file");
        for frame in seen.split("\x1b[H").skip(1) {
            let frame = frame.split(LEAVE).next().expect("a part").replace("\x1b[K", "").replace("\x1b[J", "");
            assert!(frame.matches('\n').count() < 24, "{frame}");
            assert!(plain(&frame).lines().all(|line| line.trim_end_matches('\r').width() <= 80), "{frame}");
        }
    }
}

#[tokio::test]
async fn off_a_terminal_stats_are_blocks_with_changes_or_documents() {
    let place = Place::new();
    place.run(&["add", "one"]).await.ok();
    for json in [false, true] {
        let mut command = binary(place.0.path());
        command.args(["stats", "--watch", "100ms"]).env("DATABASE_URL", "sqlite://jobs.db");
        if json {
            command.arg("--json");
        }
        let mut child = command.spawn().expect("it runs");
        let mut seen = String::new();
        let again = if json { "}\n{" } else { "\nchange      0" };
        reads(&mut child, &mut seen, again).await;
        signal(&child, "INT").await;
        let ran = Ran::from(soon("it ends", child.wait_with_output()).await.expect("it ends"));
        assert_eq!((ran.status, ran.err.as_str()), (Some(0), ""));
        assert!(!seen.contains('\x1b'), "{seen:?}");
        if json {
            let first: serde_json::Value = serde_json::from_str(seen.lines().next().expect("a line")).expect("JSON");
            let names: Vec<_> = first.as_object().expect("an object").keys().cloned().collect();
            assert_eq!(names, ["at", "jobs", "precision", "tasks", "workers"]);
        } else {
            assert!(seen.contains("0 workers hold 0 jobs; 0/s added, 0/s done\n"), "{seen}");
        }
        assert!(!place.0.path().join("jobs.db-wal").exists(), "it closes the file");
    }
}
