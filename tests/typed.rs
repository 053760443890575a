//! Payloads that name their tasks, and functions as tasks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use backfill::{
    Answer, BackfillClient, JobContext, JobSpec, Priority, RetryPolicy, Task, TaskPayload, TaskResult, Worker, handler,
    handler_with,
};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, TaskPayload)]
struct SendInvoice {
    order: u64,
}

#[derive(Serialize, Deserialize, TaskPayload)]
#[task(name = "sync account", serial_queue = "accounts", priority = -5, max_attempts = 3)]
struct Sync(u64);

#[derive(Serialize, Deserialize, TaskPayload)]
struct Generic<T> {
    value: T,
}

#[tokio::test]
async fn a_payload_says_how_its_jobs_run_and_a_caller_says_otherwise() {
    let client = BackfillClient::in_memory();
    assert_eq!((SendInvoice::TASK, Sync::TASK, Generic::<u8>::TASK), ("send_invoice", "sync account", "generic"));
    let plain = client.add(SendInvoice { order: 17 }).await.expect("add");
    assert_eq!((plain.task.as_str(), plain.payload.as_str()), ("send_invoice", "{\"order\":17}"));
    assert_eq!((plain.queue, plain.priority, plain.max_attempts), (None, Priority(0), 25));
    let sync = client.add(Sync(7)).await.expect("add");
    assert_eq!((sync.task.as_str(), sync.queue.as_deref()), ("sync account", Some("accounts")));
    assert_eq!((sync.priority, sync.max_attempts, sync.payload.as_str()), (Priority(-5), 3, "7"));
    let said = client.add(Sync(8)).serial_queue("other").priority(1).max_attempts(9).key("k").flag("f").await;
    let said = said.expect("add");
    assert_eq!((said.queue.as_deref(), said.priority, said.max_attempts), (Some("other"), Priority(1), 9));
    assert_eq!((said.key.as_deref(), said.flags), (Some("k"), vec!["f".to_owned()]));
    let later = client.add(SendInvoice { order: 18 }).run_in(Duration::from_secs(3600)).await.expect("add");
    assert!(later.run_at > plain.run_at + Duration::from_secs(3000));
    let many = client.add_many((0..3).map(|value| Generic { value })).await.expect("add");
    assert_eq!(
        many.iter().map(|job| job.payload.as_str()).collect::<Vec<_>>(),
        ["{\"value\":0}", "{\"value\":1}", "{\"value\":2}"]
    );
    // What is refused is refused when it is awaited, and stores nothing.
    let error = client.add(Sync(9)).max_attempts(0).await.expect_err("no attempts");
    assert!(error.to_string().contains("max_attempts"), "{error}");
    drop(client.add(Sync(9)));
    assert_eq!(client.counts().await.expect("counts").total(), 7);
}

#[derive(Serialize, Deserialize, TaskPayload)]
struct Plain(u64);
#[derive(Serialize, Deserialize, TaskPayload)]
struct WithContext(u64);
#[derive(Serialize, Deserialize, TaskPayload)]
struct WithState(u64);
#[derive(Serialize, Deserialize, TaskPayload)]
struct WithBoth(u64);
#[derive(Serialize, Deserialize, TaskPayload)]
struct AsType(u64);
#[derive(Serialize, Deserialize, TaskPayload)]
struct Refuses(u64);

type Sum = Arc<AtomicU64>;

async fn plain(Plain(n): Plain) {
    assert_eq!(n, 1);
}

async fn with_context(WithContext(n): WithContext, ctx: JobContext) -> TaskResult {
    assert_eq!((n, ctx.job().task.as_str()), (2, "with_context"));
    Ok(Answer::Done)
}

async fn with_state(sum: Sum, WithState(n): WithState) -> Result<(), std::io::Error> {
    sum.fetch_add(n, Ordering::Relaxed);
    Ok(())
}

async fn with_both(sum: Sum, WithBoth(n): WithBoth, ctx: JobContext) -> Result<(), String> {
    sum.fetch_add(n * u64::try_from(ctx.job().attempts).unwrap_or_default(), Ordering::Relaxed);
    Ok(())
}

async fn refuses(_: Refuses) -> Result<(), std::num::ParseIntError> {
    "x".parse::<u8>().map(drop)
}

struct Typed(Sum);

impl Task for Typed {
    type Payload = AsType;
    type Output = ();

    async fn run(&self, AsType(n): AsType, _: JobContext) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn functions_of_every_form_and_types_are_tasks() {
    let client = BackfillClient::in_memory();
    let sum = Sum::default();
    client.add_many([JobSpec::from(Plain(1)), WithContext(2).into(), WithState(10).into()]).await.expect("add");
    client.add_many([JobSpec::from(WithBoth(100)), AsType(1_000).into(), Refuses(6).into()]).await.expect("add");
    let worker = Worker::builder(client.clone())
        .task(plain)
        .task(with_context)
        .task(handler_with(Arc::clone(&sum), with_state).concurrency(1))
        .task(handler_with(Arc::clone(&sum), with_both))
        .task(Typed(Arc::clone(&sum)))
        .task(handler(refuses).retry(RetryPolicy::fixed(Duration::from_secs(3600))))
        .handle_signals(false)
        .build()
        .expect("worker");
    let done = worker.run_until_idle().await.expect("run");
    assert_eq!((done.completed, done.failed), (5, 1));
    assert_eq!(sum.load(Ordering::Relaxed), 1_110);
    let left = client.jobs(&backfill::JobFilter::default()).await.expect("jobs");
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].last_error.as_deref(), Some("invalid digit found in string"));
}
