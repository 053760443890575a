//! Node's command line and ours, on one schema, with one crontab file, by the wall clock.

mod common;

use std::process::Stdio;
use std::time::Duration;

use common::support::node;
use common::{Running, SCHEMA, Scene};

/// The test lasts until this many minutes have begun.
const MINUTES: usize = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_workers_of_each_language_add_one_job_per_entry_and_minute() {
    let scene = Scene::new().await;
    scene.write(
        "crontab",
        "* * * * * beat ?id=first&queue=q {n: 1}\n* * * * * beat ?id=second&max=3\n0 0 1 1 * beat ?id=yearly",
    );
    // What they add stays: nobody runs it.
    scene.task("other", "#!/bin/sh\n");
    scene.write("node-tasks/other.js", "export default () => {};\n");
    let mut workers = Vec::new();
    for _ in 0..2 {
        let mut worker = Running::start(scene.command(&["worker"]));
        worker.logs("serving").await;
        workers.push(worker);
    }
    let mut nodes = Vec::new();
    for n in 0..2 {
        // Its tasks are in the working directory, as a rule.
        let directory = scene.path(&format!("node-{n}"));
        std::fs::create_dir_all(directory.join("tasks")).expect("a directory");
        std::fs::copy(scene.path("tasks/other"), directory.join("tasks/other")).expect("copy");
        let child = tokio::process::Command::new(std::env::var_os("BACKFILL_TEST_NODE").expect("node"))
            .arg(node::directory().join("node_modules/graphile-worker/dist/cli.js"))
            .args(["-c", &scene.url, "-s", SCHEMA, "--crontab"])
            .arg(scene.path("crontab"))
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("node runs");
        nodes.push(child);
    }
    let count = || scene.ask("select count(distinct run_at) from S._private_jobs");
    tokio::time::timeout(Duration::from_secs(60 * (MINUTES as u64 + 2)), async {
        // The wall clock is what is waited for; nobody signals it.
        while count().await.parse::<usize>().expect("a number") < MINUTES {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    })
    .await
    .expect("the minutes pass");
    // Whoever else wanted to add a job of the last minute has had the time to.
    tokio::time::sleep(Duration::from_secs(3)).await;
    for worker in &mut workers {
        worker.signal("TERM").await;
        assert_eq!(worker.ended().await, Some(0), "{}", worker.log);
    }
    for node in &mut nodes {
        assert_eq!(node.try_wait().expect("wait"), None, "Node's workers are there to the end");
    }
    drop(nodes);
    let per_minute = "select string_agg(jobs::text, ',') from (select count(*) as jobs from S._private_jobs group by run_at, max_attempts) as t";
    assert_eq!(scene.ask(per_minute).await, ["1"; 2 * MINUTES].join(","), "one job an entry a minute");
    let whole = "select bool_and(run_at = date_trunc('minute', run_at) and payload->'_cron'->>'backfilled' = 'false') from S._private_jobs";
    assert_eq!(scene.ask(whole).await, "true");
    assert_eq!(scene.ask("select count(*) from S._private_known_crontabs").await, "3");
    assert_eq!(
        scene.ask("select max(run_at) - min(run_at) from S._private_jobs").await,
        format!("00:0{}:00", MINUTES - 1)
    );
}
