//! Options of a worker, and how its log looks.

use serde_json::Value;

use crate::common::support::until;
use crate::common::{Ran, Running, Scene};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_lets_itself_be_handed_jobs_unless_it_is_told_to_claim_all() {
    let scene = Scene::new().await;
    scene.task("t", "#!/bin/sh\n");
    let offers = || async { scene.ask("select count(handover) from S.backfill_pools").await == "1" };
    let mut worker = Running::start(scene.command(&["worker"]));
    until("it says where it hears of jobs", offers).await;
    worker.signal("TERM").await;
    assert_eq!(worker.ended().await, Some(0), "{}", worker.log);

    let mut worker = Running::start(scene.command(&["worker", "-v", "--no-handoff"]));
    worker.logs("listening for wakeups").await;
    scene.run(&["add", "t"]).await.ok();
    until("it claims", || async { scene.ask("select count(*) from S._private_jobs").await == "0" }).await;
    assert!(!offers().await);
    worker.signal("TERM").await;
    assert_eq!(worker.ended().await, Some(0), "{}", worker.log);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_can_be_read_by_machines_and_told_to_be_quiet() {
    let scene = Scene::new().await;
    scene.task("t", "#!/bin/sh\necho out\n");
    for how in ["", "--quiet", "NO_LOG_SUCCESS"] {
        scene.run(&["add", "t"]).await.ok();
        let mut command = scene.command(&["worker", "--once", "--log-format", "json", "--json"]);
        match how {
            "" => {}
            "--quiet" => _ = command.arg(how),
            variable => _ = command.env(variable, "1"),
        }
        let ran = Ran::from(command.output().await.expect("it runs"));
        let quiet = !how.is_empty();
        let lines: Vec<Value> = ran.err.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert!(lines.iter().any(|line| line["message"] == "serving" && line["concurrency"] == 10), "{}", ran.err);
        let out = lines.iter().find(|line| line["message"] == "out").expect("what it printed");
        assert_eq!((&out["stream"], &out["span"]["task"]), (&Value::from("stdout"), &Value::from("t")));
        assert_eq!(lines.iter().any(|line| line["message"] == "the job is done"), !quiet, "{}", ran.err);
        assert_eq!(ran.json()["completed"], 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_options_of_a_worker_have_their_effect() {
    let scene = Scene::new().await;
    scene.task("quick", "#!/bin/sh\n");
    scene.task("alone", "#!/bin/sh\nmkdir \"$OUT\" || touch \"$OUT.together\"\nsleep 0.1\nrmdir \"$OUT\"\n");
    for _ in 0..4 {
        scene.run(&["add", "alone"]).await.ok();
    }
    // One that Node's worker has left behind, and one of a dead worker of ours.
    scene.run(&["add", "quick", "--key", "old"]).await.ok();
    scene.run(&["add", "quick", "--key", "dead"]).await.ok();
    scene
        .sql(
            "update S._private_jobs set locked_by = 'pool-node', locked_at = now() - interval '5 hours' where key = 'old';
             insert into S.backfill_pools (id, seen_at) values ('pool-dead', now() - interval '1 minute');
             update S._private_jobs set locked_by = 'pool-dead', locked_at = now() where key = 'dead'",
        )
        .await;
    let args = "worker --no-listen --poll-interval 200ms --client-time --no-prepared-statements --task-concurrency alone=1 \
                --prefetch 5 --prefetch-ttl 1m --refetch-delay 100ms --refetch-threshold 1 --refetch-abort-at 3 \
                --heartbeat-interval 200ms --dead-after 1s --min-reset-locked-interval 100ms --max-reset-locked-interval 200ms";
    let mut command = scene.command(&args.split_whitespace().collect::<Vec<_>>());
    command.env("OUT", scene.path("running"));
    let mut worker = Running::start(command);
    let says = worker.logs("serving").await;
    assert!(says.contains("wakeups=\"poll\"") && says.contains("poll_interval=200ms"), "{says}");
    let left = || async { scene.ask("select count(*) from S._private_jobs").await == "0" };
    until("all jobs are done, those of the dead too", left).await;
    assert!(!scene.path("running.together").exists(), "never two at once");
    // Nobody listens: the next one is found by the poll.
    let listening =
        "select count(*) from pg_stat_activity where datname = current_database() and query ilike 'listen %'";
    assert_eq!(scene.ask(listening).await, "0");
    scene.run(&["add", "quick"]).await.ok();
    until("the poll finds it", left).await;
    worker.signal("TERM").await;
    assert_eq!(worker.ended().await, Some(0), "{}", worker.log);
    for what in ["missed its heartbeats; released its jobs", "released jobs that were locked for more than four hours"]
    {
        assert!(worker.log.contains(what), "{what} in {}", worker.log);
    }
}
