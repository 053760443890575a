//! Workers on Redis: what survives the end of a worker or of the server, and who is told.

#[path = "../crates/backfill-redis/tests/redis_server/mod.rs"]
mod redis_server;
mod support;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backfill::redis::RedisStorage;
use backfill::storage::Storage as _;
use backfill::{BackfillClient, JobContext, JobId, JobSpec, Queue, Worker, WorkerBuilder, task_fn};
use redis_server::{Server, namespace, shared};
use support::running::{Running, empty};
use support::until;

async fn client(url: &str) -> BackfillClient {
    let storage = RedisStorage::open(url, &namespace()).expect("open");
    storage.migrate().await.expect("migrate");
    BackfillClient::with_storage(storage)
}

/// How often each job has started.
type Starts = Arc<Mutex<HashMap<JobId, usize>>>;

fn counting(client: &BackfillClient, starts: &Starts) -> WorkerBuilder {
    let starts = Arc::clone(starts);
    let task = task_fn("work", move |ms: u64, ctx: JobContext| {
        *starts.lock().expect("lock").entry(ctx.job().id).or_default() += 1;
        tokio::time::sleep(Duration::from_millis(ms))
    });
    Worker::builder(client.clone())
        .task(task)
        .concurrency(8)
        .grace(Duration::from_millis(200))
        .heartbeat_every(Duration::from_millis(200))
        .dead_after(Duration::from_secs(2))
}

/// A worker that is gone without a word loses nothing: another one runs what it held.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_worker_held_is_run_by_another() {
    let client = client(&shared().url()).await;
    let starts = Starts::default();
    client.add_many((0..4).map(|_| JobSpec::new("work", 3_600_000))).await.expect("add");
    client.add(JobSpec::new("work", 3_600_000).queue(Queue::serial("q"))).await.expect("add");
    // A runtime of its own, which ends with all that is in it and says nothing to anybody.
    let dying = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let worker = counting(&client, &starts).handle_signals(false).build().expect("a worker");
    dying.spawn(async move { worker.run().await });
    until("all have started", || async { starts.lock().expect("lock").len() == 5 }).await;
    dying.shutdown_background();

    let ids: Vec<JobId> = starts.lock().expect("lock").keys().copied().collect();
    let again = Starts::default();
    let other = Running::start(counting(&client, &again));
    until("they start again", || async { again.lock().expect("lock").len() == 5 }).await;
    assert!(ids.iter().all(|id| again.lock().expect("lock")[id] == 1));
    // To end it, they are cut off.
    other.handle.shutdown();
    other.handle.shutdown();
    let _ = other.ended().await;
}

/// A worker and a client go on when the server was killed and comes back, and each accepted job runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_goes_on_after_the_server_was_killed() {
    let mut server = Server::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let client = client(&server.url()).await;
    let starts = Starts::default();
    let running = Running::start(counting(&client, &starts));
    let stop = Arc::new(AtomicUsize::new(0));
    let adding = tokio::spawn({
        let (client, stop) = (client.clone(), Arc::clone(&stop));
        async move {
            let mut accepted = Vec::new();
            while stop.load(Ordering::Relaxed) == 0 {
                if let Ok(job) = client.add(JobSpec::new("work", 1)).await {
                    accepted.push(job.id);
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            accepted
        }
    });
    for _ in 0..2 {
        let before = starts.lock().expect("lock").len();
        until("jobs run", || async { starts.lock().expect("lock").len() > before + 50 }).await;
        server.kill();
        tokio::time::sleep(Duration::from_millis(300)).await;
        server.start_again();
    }
    let before = starts.lock().expect("lock").len();
    until("jobs run again", || async { starts.lock().expect("lock").len() > before + 50 }).await;
    stop.store(1, Ordering::Relaxed);
    let accepted = adding.await.expect("no panic");
    empty(&client).await;
    let starts = starts.lock().expect("lock").clone();
    let lost: Vec<&JobId> = accepted.iter().filter(|id| !starts.contains_key(id)).collect();
    assert_eq!(lost, Vec::<&JobId>::new(), "of {} accepted jobs", accepted.len());
    // What ran when the server ended may run again; each is at the most one of eight, twice.
    let twice = starts.values().filter(|starts| **starts > 1).count();
    assert!(twice <= 8 * 2, "{twice} of {} started again", starts.len());
    running.end().await;
}

/// Single jobs go straight to a worker that waits, and start once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_are_handed_off_to_workers_that_wait() {
    let client = client(&shared().url()).await;
    let starts = Starts::default();
    let workers: Vec<Running> = (0..2).map(|_| Running::start(counting(&client, &starts))).collect();
    let mut handed_off = 0;
    let mut ids = Vec::new();
    until("a worker offers", || async { client.add(JobSpec::new("work", 0)).await.expect("add").locked_by.is_some() })
        .await;
    for _ in 0..200 {
        let job = client.add(JobSpec::new("work", 0)).await.expect("add");
        handed_off += usize::from(job.locked_by.is_some());
        ids.push(job.id);
        // As requests come, not as fast as can be: then they are claimed, many at once.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    empty(&client).await;
    assert!(handed_off > 50, "{handed_off}");
    let starts = starts.lock().expect("lock").clone();
    assert!(ids.iter().all(|id| starts.get(id) == Some(&1)), "each starts once");
    for worker in workers {
        worker.end().await;
    }
}

/// Jobs of a serial queue run one at a time and in their order, for several workers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serial_queues_keep_their_order_on_redis() {
    let client = client(&shared().url()).await;
    let seen: Arc<Mutex<HashMap<u8, Vec<u32>>>> = Arc::default();
    let jobs = (0..300_u32).map(|n| JobSpec::new("ordered", (n % 3, n)).queue(Queue::serial(format!("q{}", n % 3))));
    client.add_many(jobs).await.expect("add");
    let workers: Vec<Running> = (0..3)
        .map(|_| {
            let seen = Arc::clone(&seen);
            let task = task_fn("ordered", move |(queue, n): (u8, u32), _: JobContext| {
                seen.lock().expect("lock").entry(queue).or_default().push(n);
                async {}
            });
            Running::start(Worker::builder(client.clone()).task(task).concurrency(4))
        })
        .collect();
    empty(&client).await;
    for worker in workers {
        worker.end().await;
    }
    for (queue, seen) in seen.lock().expect("lock").iter() {
        assert!(seen.len() == 100 && seen.is_sorted(), "{queue}: {seen:?}");
    }
}
