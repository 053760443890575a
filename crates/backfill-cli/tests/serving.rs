//! Jobs that nobody runs, and programs that come and go.

mod common;

use common::support::until;
use common::{Running, Scene};
use serde_json::{Value, json};

/// The scene's database, or a file in its directory.
fn places(scene: &Scene) -> [String; 2] {
    [scene.url.clone(), format!("sqlite://{}", scene.path("jobs.db").display())]
}

async fn tasks_of_workers(scene: &Scene, url: &str) -> Vec<Value> {
    let ran = scene.run(&["--json", "workers", "-c", url]).await;
    if ran.status != Some(0) {
        // The worker has yet to make the file.
        return Vec::new();
    }
    let workers = ran.json();
    workers.as_array().expect("a list").iter().map(|worker| worker["tasks"].clone()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_of_a_task_that_no_live_worker_runs_are_told_by_every_command() {
    let scene = Scene::new().await;
    scene.task("send_mail", "#!/bin/sh\n");
    for url in places(&scene) {
        let run = |args: &'static [&'static str]| {
            let (scene, args) = (&scene, [args, &["-c", &url]].concat());
            async move { scene.run(&args).await }
        };
        let before = run(&["add", "sendmail"]).await;
        assert!(!before.err.contains("no live worker"), "whose workers are not there may be Node's: {}", before.err);
        before.ok();
        let waits = run(&["stats"]).await.ok();
        assert!(waits.contains("1 job waits for a worker: no live worker of backfill's is registered"), "{waits}");
        assert!(run(&["doctor"]).await.out.contains("fine     tasks: no live worker"));
        let mut worker = Running::start(scene.command(&["worker", "-c", &url]));
        until("it is registered", || async { tasks_of_workers(&scene, &url).await == [json!(["send_mail"])] }).await;

        let says = "no live worker of backfill's runs the task \"sendmail\"; did you mean \"send_mail\"?";
        let added = run(&["add", "sendmail"]).await;
        assert!(added.err.contains(&format!("note: {says}")), "{}", added.err);
        assert_eq!(added.err.matches("did you mean").count(), 1, "{}", added.err);
        added.ok();
        assert_eq!(run(&["add", "send_mail"]).await.err, "");
        let lines = b"{\"task\": \"sendmail\"}\n{\"task\": \"send_mail\"}\n{\"task\": \"sendmail\"}\n";
        let many = scene.run_with(&["add", "--from", "-", "-c", &url], lines).await;
        assert_eq!(many.err, format!("note: {says}\n"));
        for command in [&["stats"][..], &["tasks"], &["workers"]] {
            let told = run(command).await.ok();
            assert!(told.contains(&format!("4 jobs wait: {says}")), "{command:?}: {told}");
        }
        let stats = run(&["--json", "stats"]).await.json();
        let tasks = stats["tasks"].as_array().expect("a list");
        let workers = |name: &str| tasks.iter().find(|task| task["name"] == name).map(|task| task["workers"].clone());
        assert_eq!((workers("send_mail"), workers("sendmail")), (Some(json!(1)), Some(json!(0))));
        let doctor = run(&["doctor"]).await;
        assert!(doctor.out.contains(&format!("found    tasks: 4 jobs wait: {says}")), "{}", doctor.out);
        assert!(doctor.status == Some(1) && doctor.out.contains("start a worker that has these tasks"));
        let log = worker.logs("no live worker").await;
        assert!(log.contains("WARN") && log.contains(says), "{log}");
        let once = run(&["worker", "--once"]).await;
        assert!(once.err.contains(&format!("4 jobs wait: {says}")), "{}", once.err);
        worker.signal("TERM").await;
        assert_eq!(worker.ended().await, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_that_are_overdue_without_any_worker_are_found_by_the_doctor() {
    let scene = Scene::new().await;
    scene.run(&["add", "t"]).await.ok();
    scene.sql("update S._private_jobs set run_at = now() - interval '1 hour'").await;
    let doctor = scene.run(&["doctor"]).await.out;
    assert!(
        doctor.contains("found    tasks: of 1 job that waits some are ready for more than ten minutes"),
        "{doctor}"
    );
    // A worker of Node's is seen by what it holds.
    scene.run(&["add", "t"]).await.ok();
    scene.sql("update S._private_jobs set locked_at = now(), locked_by = 'worker-node' where id = 2").await;
    let doctor = scene.run(&["doctor"]).await.out;
    assert!(doctor.contains("fine     tasks: "), "{doctor}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crontab_entry_whose_task_nobody_runs_is_told() {
    let scene = Scene::new().await;
    scene.task("tidy", "#!/bin/sh\n");
    scene.write("crontab", "0 4 1 1 * tydy\n0 4 1 1 * tidy\n");
    let mut worker = Running::start(scene.command(&["worker"]));
    let told = worker.logs("the crontab adds jobs that wait").await;
    assert!(told.contains("the task \"tydy\"; did you mean \"tidy\"?"), "{told}");
    worker.signal("TERM").await;
    assert_eq!(worker.ended().await, Some(0));
    assert!(!worker.log.contains("the task \"tidy\""), "{}", worker.log);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_are_run_that_are_put_into_the_directory_later_and_not_those_that_are_gone() {
    let scene = Scene::new().await;
    scene.task("first", "#!/bin/sh\n");
    for url in places(&scene) {
        let mut worker = Running::start(scene.command(&["worker", "-c", &url, "--rescan-interval", "50ms"]));
        until("it is registered", || async { tasks_of_workers(&scene, &url).await == [json!(["first"])] }).await;
        scene.run(&["add", "second", "-c", &url]).await.ok();
        scene.task("second", "#!/bin/sh\n");
        worker.logs("the tasks have changed").await;
        until("the job is done", || async { scene.run(&["--json", "jobs", "-c", &url]).await.json() == json!([]) })
            .await;
        std::fs::remove_file(scene.path("tasks/first")).expect("remove");
        let changed = worker.logs("the tasks have changed").await;
        assert!(changed.contains("gone=\"first\"") && changed.contains("tasks=\"second\""), "{changed}");
        until("it is told", || async { tasks_of_workers(&scene, &url).await == [json!(["second"])] }).await;
        let left = scene.run(&["add", "first", "-c", &url]).await;
        assert!(left.err.contains("no live worker of backfill's runs the task \"first\""), "{}", left.err);
        worker.signal("TERM").await;
        assert_eq!(worker.ended().await, Some(0));
        std::fs::rename(scene.path("tasks/second"), scene.path("tasks/first")).expect("rename");
    }
}
