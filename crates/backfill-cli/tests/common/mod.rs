//! What the tests of the binary share: a database of one's own, a directory of one's own, and the binary in both.
#![allow(dead_code, unused_imports, reason = "each test binary uses a part of this")]

#[path = "../../../../tests/support/mod.rs"]
pub mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use backfill::BackfillClient;
use sqlx::PgPool;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStderr, Command};

use support::{ask, soon, sql};

/// The schema that the binary works in when nothing is said.
pub const SCHEMA: &str = "graphile_worker";

pub struct Scene {
    pub pool: PgPool,
    pub url: String,
    pub directory: TempDir,
}

/// What a run of the binary left.
pub struct Ran {
    pub status: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ran {
    pub fn ok(self) -> String {
        assert_eq!(self.status, Some(0), "{}{}", self.out, self.err);
        self.out
    }

    pub fn json(self) -> serde_json::Value {
        serde_json::from_str(&self.ok()).expect("JSON")
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        Self { status: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

impl Scene {
    /// An empty database.
    pub async fn empty() -> Self {
        let (pool, url) = support::database().await;
        Self { pool, url, directory: TempDir::new().expect("a directory") }
    }

    /// A database with the schema in it.
    pub async fn new() -> Self {
        let scene = Self::empty().await;
        BackfillClient::new(&scene.url).await.expect("migrate");
        scene
    }

    pub async fn client(&self) -> BackfillClient {
        BackfillClient::new(&self.url).await.expect("connect")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(&path, text).expect("write");
        path
    }

    /// A program in the directory `tasks`.
    pub fn task(&self, name: &str, text: &str) {
        let path = self.write(&format!("tasks/{name}"), text);
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("executable");
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = binary(self.directory.path());
        command.args(args).env("DATABASE_URL", &self.url);
        command
    }

    pub async fn run(&self, args: &[&str]) -> Ran {
        soon("the binary ends", self.command(args).output()).await.expect("it runs").into()
    }

    /// As from a terminal.
    pub async fn run_on_a_terminal(&self, args: &str) -> Ran {
        let mut command = on_a_terminal(self.directory.path(), 80, 24, args);
        command.env("DATABASE_URL", &self.url);
        soon("it ends", command.output()).await.expect("it runs").into()
    }

    pub async fn run_with(&self, args: &[&str], input: &[u8]) -> Ran {
        let mut child = self.command(args).stdin(Stdio::piped()).spawn().expect("it runs");
        let mut stdin = child.stdin.take().expect("stdin");
        // It may end before it has read all.
        let _ = stdin.write_all(input).await;
        drop(stdin);
        soon("the binary ends", child.wait_with_output()).await.expect("it runs").into()
    }

    pub async fn ask(&self, text: &str) -> String {
        ask(&self.pool, SCHEMA, text).await
    }

    pub async fn sql(&self, text: &str) {
        sql(&self.pool, SCHEMA, text).await;
    }
}

/// The binary, in this directory and without anything that says which database.
pub fn binary(directory: &Path) -> Command {
    program(env!("CARGO_BIN_EXE_backfill"), directory)
}

/// The same on a terminal of so many columns and lines, by `script`, which every Debian system has. Its output is what the terminal gets,
/// and its input is what is typed.
pub fn on_a_terminal(directory: &Path, columns: u16, lines: u16, args: &str) -> Command {
    shell_on_a_terminal(directory, columns, lines, &format!("exec $BACKFILL {args}"))
}

/// The same of a line for the shell, in which `$BACKFILL` is the binary.
pub fn shell_on_a_terminal(directory: &Path, columns: u16, lines: u16, line: &str) -> Command {
    let line = format!("stty cols {columns} rows {lines}; {line}");
    let mut command = program("script", directory);
    command.env("BACKFILL", env!("CARGO_BIN_EXE_backfill"));
    command.args(["--quiet", "--return", "--flush", "--command", &line, "/dev/null"]).env("TERM", "xterm");
    command
}

fn program(name: &str, directory: &Path) -> Command {
    let mut command = Command::new(name);
    command
        .current_dir(directory)
        .env_remove("DATABASE_URL")
        .env_remove("BACKFILL_SCHEMA")
        .env_remove("GRAPHILE_WORKER_SCHEMA")
        .env_remove("NO_LOG_SUCCESS")
        .env_remove("NO_COLOR")
        .env_remove("CLICOLOR")
        .env_remove("CLICOLOR_FORCE")
        // The user's own file is none of the tests' business.
        .env("HOME", directory)
        .env("XDG_DATA_HOME", directory.join("data"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PG") {
            command.env_remove(name);
        }
    }
    command
}

/// A binary that runs, and its log.
pub struct Running {
    pub child: Child,
    pub log: String,
    lines: tokio::io::Lines<BufReader<ChildStderr>>,
}

impl Running {
    pub fn start(mut command: Command) -> Self {
        let mut child = command.spawn().expect("it runs");
        let lines = BufReader::new(child.stderr.take().expect("stderr")).lines();
        Self { child, log: String::new(), lines }
    }

    /// Waits until a line of the log has this in it, and answers the line.
    pub async fn logs(&mut self, what: &str) -> String {
        let begin = self.log.len();
        let found = tokio::time::timeout(support::TIMEOUT, async {
            while let Some(line) = self.lines.next_line().await.expect("read") {
                self.log.push_str(&line);
                self.log.push('\n');
                if line.contains(what) {
                    return Some(line);
                }
            }
            None
        });
        match found.await {
            Ok(Some(line)) => line,
            _ => panic!("{what:?} was not logged, but: {}", &self.log[begin..]),
        }
    }

    pub async fn signal(&self, name: &str) {
        signal(&self.child, name).await;
    }

    /// Waits for its end; answers the exit status, and the rest of the log goes to `log`.
    pub async fn ended(&mut self) -> Option<i32> {
        let rest = async {
            while let Some(line) = self.lines.next_line().await.expect("read") {
                self.log.push_str(&line);
                self.log.push('\n');
            }
            self.child.wait().await.expect("wait")
        };
        soon("it ends", rest).await.code()
    }
}

/// Sends a signal, such as `TERM`.
pub async fn signal(child: &Child, name: &str) {
    let pid = child.id().expect("it runs").to_string();
    assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().await.expect("kill").success());
}
