//! Settings that are refused, and tasks that are changed while a worker runs.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use backfill::{BackfillClient, JobSpec, Prefetch, Worker, task_fn};
use tokio::sync::Semaphore;

use crate::support::{client, soon, until};

#[tokio::test]
async fn settings_that_do_not_go_together_are_refused_with_the_value() {
    let client = BackfillClient::in_memory();
    let task = || task_fn("t", |(): (), _| async {});
    let builder = || Worker::builder(client.clone());
    for (builder, says) in [
        (builder(), "neither tasks nor a crontab"),
        (builder().task(task().concurrency(0)), "\"t\" may run 0 jobs"),
        (builder().task(task().timeout(Duration::ZERO)), "timeout of 0ns"),
        (
            builder().task(task()).sweep_interval(Duration::from_secs(2), Duration::from_secs(1)),
            "sweeps every 2s to 1s",
        ),
        (builder().task(task()).event_capacity(0), "event capacity is 0"),
        (builder().task(task()).forbidden_flags(["a\0"]), "NUL"),
        (builder().task(task()).prefetch(Prefetch::new(2_000_000)), "2000000"),
    ] {
        let error = builder.build().unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_worker_takes_up_new_tasks_and_leaves_those_that_it_has_no_more() {
    for client in [client().await.0, BackfillClient::in_memory()] {
        let open = Arc::new(Semaphore::new(0));
        let (ran, gate) = (Arc::new(Mutex::new(Vec::new())), Arc::clone(&open));
        let held = || {
            let gate = Arc::clone(&gate);
            task_fn("held", move |(): (), _| {
                let gate = Arc::clone(&gate);
                async move { gate.acquire().await.expect("it is open").forget() }
            })
        };
        let noted = |name: &'static str| {
            let ran = Arc::clone(&ran);
            task_fn(name, move |n: u32, _| {
                ran.lock().expect("no panic").push((name, n));
                async {}
            })
        };
        let worker = Worker::builder(client.clone()).task(held()).task(noted("old")).handle_signals(false);
        let worker = Arc::new(worker.build().expect("worker"));
        let (running, handle) = (Arc::clone(&worker), worker.shutdown_handle());
        let run = tokio::spawn(async move { running.run().await });
        // One runs when its task goes away.
        let first = client.add(JobSpec::new("held", ())).await.expect("add");
        until("it runs", || async {
            client.job(first.id).await.expect("read").is_some_and(|job| job.locked_by.is_some())
        })
        .await;
        client.add(JobSpec::new("new", 1)).await.expect("add");
        assert!(worker.handle().set_tasks([noted("new"), noted("new")]).is_err(), "and nothing changes");
        worker.handle().set_tasks([noted("new").concurrency(1), noted("other")]).expect("they go together");
        assert_eq!(worker.tasks(), ["new", "other"]);
        until("the new task's job is done", || async { *ran.lock().expect("no panic") == [("new", 1)] }).await;
        let told = || async {
            let workers = client.storage().require_inspect().expect("inspect").serving().await.expect("serving");
            workers.into_iter().find_map(|worker| worker.tasks).is_some_and(|tasks| tasks == ["new", "other"])
        };
        until("it is told", told).await;
        open.add_permits(1);
        until("what ran has ended", || async { client.job(first.id).await.expect("read").is_none() }).await;
        // Jobs one by one may be handed off to the worker.
        let left = client.add(JobSpec::new("old", 2)).await.expect("add");
        for n in 3..10 {
            client.add(JobSpec::new("other", n)).await.expect("add");
        }
        until("they are done", || async { ran.lock().expect("no panic").len() == 8 }).await;
        let left = client.job(left.id).await.expect("read").expect("it waits");
        assert_eq!((left.attempts, left.locked_by), (0, None));
        handle.shutdown();
        soon("it ends", run).await.expect("no panic").expect("run");
        assert!(client.storage().require_inspect().expect("inspect").serving().await.expect("serving").is_empty());
    }
}
