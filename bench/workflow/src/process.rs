//! Starting children, and talking to them.
//!
//! A child says `ready` on its standard output when it is, does its work when it reads a line, tells its figures as lines `name value`, and ends when
//! its standard input is closed.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::Result;
use crate::child::{TOLD, Told};

/// How long a child may take to say something.
const PATIENCE: Duration = Duration::from_secs(240);

pub struct Process {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Process {
    /// Starts a child of this program, or of Python, and waits until it is ready.
    pub async fn start(told: &Told, python: Option<&str>) -> Result<Self> {
        let mut command = match python.filter(|_| told.who.starts_with("python")) {
            Some(python) => {
                let mut command = Command::new(python);
                command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/peer.py"));
                command
            }
            None => Command::new(std::env::current_exe()?),
        };
        let mut child = command
            .env(TOLD, told.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().ok_or("no output")?);
        let mut process = Self { child, input, output };
        match process.line().await?.as_str() {
            "ready" => Ok(process),
            line => Err(format!("it said {line:?} instead of ready").into()),
        }
    }

    pub async fn go(&mut self) -> Result<()> {
        Ok(self.input.as_mut().ok_or("it has been told to end")?.write_all(b"go\n").await?)
    }

    async fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        tokio::time::timeout(PATIENCE, self.output.read_line(&mut line)).await.map_err(|_| "it said nothing for too long")??;
        Ok(line.trim_end().to_owned())
    }

    /// What it tells until it says `done`.
    pub async fn figures(&mut self) -> Result<BTreeMap<String, f64>> {
        let mut figures = BTreeMap::new();
        loop {
            let line = self.line().await?;
            match line.rsplit_once(' ') {
                Some((name, value)) => figures.insert(name.to_owned(), value.parse()?),
                None if line == "done" => return Ok(figures),
                None => return Err(format!("it said {line:?}").into()),
            };
        }
    }

    /// Tells it to end, and waits for that; one that does not end is killed, since what it did is counted already.
    pub async fn end(mut self) -> Result<()> {
        drop(self.input.take());
        if tokio::time::timeout(Duration::from_secs(5), self.child.wait()).await.is_err() {
            self.child.kill().await?;
        }
        Ok(())
    }

    /// Kills it, as a crash would.
    pub async fn kill(mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }
}
