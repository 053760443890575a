//! What happens, happens once, even if the news of it is lost or late.

mod support;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backfill::storage::Storage;
use backfill::storage::memory::MemoryStorage;
use backfill::testing::{Faults, FaultyStorage};
use backfill::{Answer, BackfillClient, JobContext, JobId, JobSpec, Summary, TaskError, TaskResult, Worker, task_fn};
use support::{postgres, soon, until};

/// How often each job was started.
type Starts = Arc<Mutex<HashMap<JobId, u32>>>;

async fn run_all(storage: Arc<dyn Storage>, faults: Faults, jobs: u32) -> (Starts, Summary) {
    let quiet = BackfillClient::with_storage(Arc::clone(&storage));
    let client = BackfillClient::with_storage(Arc::new(FaultyStorage::new(storage, Arc::new(faults))));
    let starts = Starts::default();
    let specs = (0..jobs).map(|n| {
        let spec = JobSpec::new("t", n);
        if n % 3 == 0 { spec.serial_queue(format!("q{}", n % 5)) } else { spec }
    });
    quiet.add_many(specs).await.expect("add");
    let counted = starts.clone();
    let handler = task_fn("t", move |n: u32, ctx: JobContext| {
        let counted = counted.clone();
        async move {
            let started = {
                let mut starts = counted.lock().expect("lock");
                let started = starts.entry(ctx.job().id).or_default();
                *started += 1;
                *started
            };
            tokio::time::sleep(Duration::from_millis(u64::from(n % 4))).await;
            answer(n, started)
        }
    });
    let worker = Worker::builder(client)
        .task(handler)
        .concurrency(6)
        .poll_interval(Duration::from_millis(20))
        .handle_signals(false)
        .build()
        .expect("worker");
    let handle = worker.shutdown_handle();
    let running = tokio::spawn(async move { worker.run().await });
    until("all jobs are done", || async { quiet.counts().await.expect("counts").total() == 0 }).await;
    handle.shutdown();
    let summary = soon("the worker ends", running).await.expect("no panic").expect("run");
    (starts, summary)
}

/// Some jobs are done at once, some fail or snooze once and are ready again at that very moment.
fn answer(n: u32, started: u32) -> TaskResult {
    match (n % 5, started) {
        (1, 1) => Err(TaskError::new("once").retry_in(Duration::ZERO)),
        (2, 1) => Ok(Answer::snooze(Duration::ZERO)),
        _ => Ok(Answer::Done),
    }
}

fn assert_started_as_often_as_answered(starts: &Starts, jobs: u32) {
    let starts = starts.lock().expect("lock");
    assert_eq!(starts.len(), jobs as usize, "every job was started");
    let expected = (0..jobs).map(|n| if matches!(n % 5, 1 | 2) { 2 } else { 1 }).sum::<u32>();
    assert_eq!(starts.values().sum::<u32>(), expected, "and none oftener than its answers ask for");
}

#[tokio::test]
async fn a_claim_whose_answer_is_lost_starts_its_jobs_once_all_the_same() {
    let memory: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    for storage in [memory, postgres().await as Arc<dyn Storage>] {
        let faults = Faults::default();
        faults.lose_claims(3);
        let (starts, _) = run_all(storage, faults, 60).await;
        assert_started_as_often_as_answered(&starts, 60);
    }
}

#[tokio::test]
async fn a_result_whose_answer_is_lost_is_written_once_and_not_called_lost() {
    let memory: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    for storage in [memory, postgres().await as Arc<dyn Storage>] {
        let faults = Faults::default();
        faults.lose_settles(2);
        let (starts, summary) = run_all(storage, faults, 60).await;
        assert_started_as_often_as_answered(&starts, 60);
        assert_eq!((summary.completed, summary.failed, summary.snoozed, summary.stale), (60, 12, 12, 0));
    }
}

#[tokio::test]
async fn late_news_of_a_result_does_not_make_a_worker_forget_the_jobs_next_claim() {
    let memory: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    for storage in [memory, postgres().await as Arc<dyn Storage>] {
        let faults = Faults::default();
        faults.lose_claims(2);
        faults.delay_settles(Duration::from_millis(30));
        let (starts, _) = run_all(storage, faults, 60).await;
        assert_started_as_often_as_answered(&starts, 60);
    }
}

#[tokio::test]
async fn who_does_not_know_whether_a_keyed_job_was_stored_adds_it_again_and_has_one() {
    let inner: Arc<dyn Storage> = postgres().await;
    let faults = Arc::new(Faults::default());
    let client = BackfillClient::with_storage(Arc::new(FaultyStorage::new(Arc::clone(&inner), Arc::clone(&faults))));
    faults.lose_answers(1);
    let spec = || JobSpec::new("t", 1).key("order-18");
    let error = client.add(spec()).await.expect_err("the answer is lost");
    assert!(error.is_transient() && !error.is_refusal(), "nobody can tell: {error}");
    let job = client.add(spec()).await.expect("again");
    assert_eq!(job.revision, 1, "it had been stored");
    assert_eq!(inner.require_inspect().expect("inspect").counts().await.expect("counts").total(), 1);
}
