//! Tasks and what they answer.

use backfill::{Answer, JobContext, JobSpec, Task, TaskPayload, Worker, task_fn};
use chrono::Utc;
use tokio::sync::mpsc;

use crate::run_one;
use crate::support::client;

#[derive(serde::Serialize, serde::Deserialize, TaskPayload)]
struct Double(u64);

struct Doubler {
    results: mpsc::UnboundedSender<u64>,
}

impl Task for Doubler {
    type Payload = Double;
    type Output = Result<(), mpsc::error::SendError<u64>>;

    async fn run(&self, Double(n): Double, ctx: JobContext) -> Self::Output {
        assert_eq!((ctx.job().attempts, ctx.is_last_attempt(), ctx.is_cancelled()), (1, false, false));
        self.results.send(n * 2)
    }
}

#[tokio::test]
async fn typed_tasks_and_closures_run_and_unknown_tasks_are_left_alone() {
    let (client, ..) = client().await;
    let (results, mut doubled) = mpsc::unbounded_channel();
    client.add(Double(21)).await.expect("add");
    client.add(JobSpec::new("follow", "up")).await.expect("add");
    let unknown = client.add(JobSpec::new("unknown", ())).await.expect("add");
    let worker = Worker::builder(client.clone())
        .task(Doubler { results })
        .task(task_fn("follow", |text: String, ctx: JobContext| async move {
            assert_eq!(text, "up");
            ctx.client().add(JobSpec::new("double", 4)).await.map(drop)
        }))
        .build()
        .expect("worker");
    assert_eq!(worker.run_until_idle().await.expect("run").completed, 3);
    assert_eq!((doubled.recv().await, doubled.recv().await), (Some(42), Some(8)));
    assert_eq!(client.job(unknown.id).await.expect("read"), Some(unknown));
}

#[tokio::test]
async fn a_panic_is_a_failed_attempt_with_its_message() {
    let panics: [(&str, fn()); 3] = [
        ("the task panicked: plain", || panic!("plain")),
        ("the task panicked: with 7", || panic!("with {}", 7)),
        ("the task panicked", || std::panic::panic_any(7)),
    ];
    for (text, panic) in panics {
        let inside = task_fn("t", move |(): (), _: JobContext| async move { panic() });
        let (_, left) = run_one(inside, JobSpec::new("t", ())).await;
        assert_eq!(left.expect("the job").last_error.as_deref(), Some(text));
        let before = task_fn("t", move |(): (), _: JobContext| {
            panic();
            async {}
        });
        let (_, left) = run_one(before, JobSpec::new("t", ())).await;
        assert_eq!(left.expect("the job").last_error.as_deref(), Some(text));
    }
}

#[tokio::test]
async fn errors_of_any_text_are_stored() {
    let nul = task_fn("t", |(): (), _: JobContext| async { Err::<(), _>("a\0b") });
    let (_, left) = run_one(nul, JobSpec::new("t", ())).await;
    assert_eq!(left.expect("the job").last_error.as_deref(), Some("a\u{fffd}b"));
    let long = task_fn("t", |(): (), _: JobContext| async { Err::<(), _>("x".repeat(10_000_000)) });
    let (_, left) = run_one(long, JobSpec::new("t", ())).await;
    let error = left.expect("the job").last_error.expect("an error");
    assert!(error.len() < 33_000 && error.contains("10000000 bytes"));
}

#[tokio::test]
async fn of_a_batch_the_items_that_failed_are_kept_and_tried_again() {
    let (client, ..) = client().await;
    let job = client.add(JobSpec::new("t", [1, 2, 3, 4])).await.expect("add");
    let handler = task_fn("t", |items: Vec<u32>, ctx: JobContext| async move {
        let first = ctx.job().attempts == 1;
        assert_eq!(items, if first { vec![1, 2, 3, 4] } else { vec![2, 4] });
        Answer::items(
            items.into_iter().map(move |n| if first && n % 2 == 0 { Err(format!("bad {n}")) } else { Ok(()) }),
        )
    });
    let worker = Worker::builder(client.clone()).task(handler).build().expect("worker");
    assert_eq!(worker.run_until_idle().await.expect("run").failed, 1);
    let left = client.job(job.id).await.expect("read").expect("the job");
    assert_eq!((left.payload.as_str(), left.last_error.as_deref()), ("[2,4]", Some("Batch failures:\nbad 2\nbad 4")));
    assert_eq!(left.attempts, 1);
    client.reschedule(&[job.id], &backfill::Reschedule::new().run_at(Utc::now())).await.expect("reschedule");
    assert_eq!(worker.run_until_idle().await.expect("run").completed, 1);
    assert!(client.job(job.id).await.expect("read").is_none());
}
