//! Worker processes: starting, signalling and killing them.

use std::process::Stdio;

use chrono::Utc;
use tokio::process::{Child, Command};

use super::{Scene, TIMEOUT};
use crate::support::soon;
use crate::worker::{TOLD, Told};

impl Scene {
    /// Starts a worker process with the scene's settings.
    pub fn start(&mut self, name: &str) {
        let told = Told { name: name.to_owned(), ..self.told.clone() };
        let log = std::env::temp_dir().join(format!("{}.{name}.log", self.database));
        self.logs.push(log.clone());
        let log = std::fs::File::options().create(true).append(true).open(log).expect("a log");
        let child = Command::new(std::env::current_exe().expect("this program"))
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .env(TOLD, serde_json::to_string(&told).expect("JSON"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .expect("start a worker");
        self.workers.insert(name.to_owned(), child);
    }

    pub async fn signal(&self, name: &str, signal: &str) {
        let pid = self.workers[name].id().expect("it runs").to_string();
        let sent = Command::new("kill").args([&format!("-{signal}"), &pid]).status().await.expect("kill");
        assert!(sent.success(), "{name} could not be sent {signal}");
    }

    /// Kills a worker process.
    pub async fn kill(&mut self, name: &str) {
        let mut worker = self.workers.remove(name).expect("it runs");
        worker.start_kill().expect("kill");
        self.killed.push((name.to_owned(), Utc::now()));
        worker.wait().await.expect("wait");
        self.hits(name);
    }

    /// Waits for the end of a worker that died by itself, and starts another one in its place.
    pub async fn dies_and_is_restarted(&mut self, name: &str) {
        let mut worker = self.workers.remove(name).expect("it runs");
        let status = soon("it dies", worker.wait()).await.expect("wait");
        assert!(!status.success(), "it dies of its job");
        self.killed.push((name.to_owned(), Utc::now()));
        self.hits(name);
        self.start(&format!("{name}'"));
    }

    /// Waits for a worker's end, which must be an orderly one.
    pub async fn ended(&mut self, name: &str) {
        let mut worker = self.workers.remove(name).expect("it runs");
        let status = tokio::time::timeout(TIMEOUT, worker.wait()).await.expect("it ends").expect("wait");
        assert!(status.success(), "{name} ended with {status}");
    }

    /// A worker that has died by itself.
    pub fn dead(&mut self) -> Option<String> {
        for (name, worker) in &mut self.workers {
            if worker.try_wait().expect("wait").is_some() {
                return Some(name.clone());
            }
        }
        None
    }

    /// The most memory that a worker process holds, in MiB.
    pub fn memory(&self) -> u64 {
        let resident = |worker: &Child| {
            let status = std::fs::read_to_string(format!("/proc/{}/status", worker.id()?)).ok()?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        self.workers.values().filter_map(resident).max().unwrap_or_default() / 1024
    }

    pub fn names(&self) -> Vec<String> {
        self.workers.keys().cloned().collect()
    }
}
