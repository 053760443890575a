//! Large payloads are never all held at once: every command does its work under a limit on the address space.
#![cfg(target_os = "linux")]

mod common;

use std::process::Stdio;

use common::support::soon;
use common::{Ran, Scene};
use tokio::process::Command;

/// A debug build with two threads that has done nothing yet takes about half of this.
const LIMIT_KIB: u32 = 220 * 1024;

impl Scene {
    /// Runs the binary with so much address space, in KiB. What it prints is counted, and not kept.
    async fn run_within(&self, limit: u32, args: &[&str]) -> Ran {
        let script = format!("ulimit -v {limit}; exec \"$0\" \"$@\" >printed");
        let mut command = Command::new("sh");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_backfill")]).args(args);
        command.current_dir(self.directory.path()).env("DATABASE_URL", &self.url).env("HOME", self.directory.path());
        // Each thread, and each thread's own heap, takes address space that it never uses.
        command.env("TOKIO_WORKER_THREADS", "2").env("MALLOC_ARENA_MAX", "1");
        command.stdin(Stdio::null()).kill_on_drop(true);
        soon("it ends", command.output()).await.expect("it runs").into()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_command_holds_all_payloads_at_once() {
    let scene = Scene::new().await;
    // 40 jobs of 5 MiB.
    let add = "select S.add_job('t', json_build_object('a', repeat(md5(i::text), 5 * 1024 * 32))) from generate_series(1, 40) i";
    scene.ask(&format!("select count(*) from ({add}) as added")).await;
    let run = async |args: &[&str]| scene.run_within(LIMIT_KIB, args).await;
    let unknown = run(&["remove", "nobody"]).await;
    assert!(unknown.err.contains("no job has the key"), "{}", unknown.err);
    run(&["jobs"]).await.ok();
    assert!(scene.read("printed").contains("ready"));
    run(&["jobs", "--json", "--limit", "30"]).await.ok();
    let printed = scene.read("printed");
    assert!(printed.len() > 150 * 1024 * 1024 && printed.starts_with("[{") && printed.ends_with("}]\n"));
    assert_eq!(printed.matches("\"id\":").count(), 30);
    drop(printed);
    let ids: Vec<String> = (1..=24).map(|id| id.to_string()).collect();
    let with =
        |command: &'static str| std::iter::once(command).chain(ids.iter().map(String::as_str)).collect::<Vec<_>>();
    run(&with("run-now")).await.ok();
    run(&with("discard")).await.ok();
    run(&with("complete")).await.ok();
    run(&["move", "--to", "sqlite:jobs.db"]).await.ok();
    assert!(scene.read("printed").starts_with("moved 16 jobs"));
    run(&["--database-url", "sqlite:jobs.db", "jobs"]).await.ok();
    assert!(scene.read("printed").contains("ready"));
    run(&["--database-url", "sqlite:jobs.db", "jobs", "--json"]).await.ok();
    run(&["move", "--from", "sqlite:jobs.db", "--to", &scene.url]).await.ok();
    assert!(scene.read("printed").starts_with("moved 16 jobs"));
    assert_eq!(scene.ask("select sum(octet_length(payload::text) / 1024 / 1024) from S._private_jobs").await, "80");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_add_takes_a_few_times_its_payload() {
    let scene = Scene::new().await;
    // What JSON has to escape once more. 24 MiB as it is written.
    let line = format!("{{\"task\":\"t\",\"payload\":\"{}\"}}\n", "x\\\"y\\n".repeat(4 * 1024 * 1024));
    scene.write("jobs.jsonl", &line);
    for url in [scene.url.as_str(), "sqlite:jobs.db"] {
        let args = ["add", "--from", "jobs.jsonl", "--max-payload-bytes", "100000000", "--database-url", url];
        scene.run_within(350 * 1024, &args).await.ok();
        assert_eq!(scene.read("printed"), "added 1 jobs\n");
    }
}
