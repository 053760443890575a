//! The tests that docs/guides/testing.md shows.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use backfill::chrono::{DateTime, Utc};
use backfill::{BackfillClient, Clock, JobFilter, TaskPayload, handler_with};

#[derive(serde::Serialize, serde::Deserialize, TaskPayload, PartialEq, Debug)]
struct SendInvoice {
    order: u64,
}

#[derive(Clone, Default)]
struct Mailer(Arc<Mutex<Vec<u64>>>);

impl Mailer {
    fn sent(&self) -> Vec<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn send_invoice(mailer: Mailer, job: SendInvoice) -> Result<(), String> {
    if job.order == 0 {
        return Err("there is no order 0".to_owned());
    }
    mailer.0.lock().unwrap_or_else(PoisonError::into_inner).push(job.order);
    Ok(())
}

/// The code under test.
async fn place_order(jobs: &BackfillClient, order: u64) -> backfill::Result<()> {
    jobs.add(SendInvoice { order }).run_in(Duration::from_secs(3600)).await?;
    Ok(())
}

/// What was added for a task, decoded.
async fn added<P: TaskPayload + serde::de::DeserializeOwned>(jobs: &BackfillClient) -> Vec<P> {
    let list = jobs.jobs(&JobFilter::new().task(P::TASK)).await.expect("jobs");
    list.iter().map(|job| job.payload.decode().expect("a payload")).collect()
}

/// Runs what is ready, and then ends.
async fn run(jobs: &BackfillClient, mailer: &Mailer) -> backfill::worker::Summary {
    let task = handler_with(mailer.clone(), send_invoice);
    let worker = jobs.worker().task(task).handle_signals(false).build().expect("worker");
    worker.run_until_idle().await.expect("run")
}

#[tokio::test]
async fn an_order_adds_a_job() {
    let jobs = BackfillClient::in_memory();
    place_order(&jobs, 17).await.expect("order");
    assert_eq!(added::<SendInvoice>(&jobs).await, [SendInvoice { order: 17 }]);
}

#[tokio::test]
async fn the_task_alone_is_a_function() {
    let mailer = Mailer::default();
    send_invoice(mailer.clone(), SendInvoice { order: 17 }).await.expect("sent");
    assert_eq!(mailer.sent(), [17]);
    assert!(send_invoice(mailer, SendInvoice { order: 0 }).await.is_err());
}

#[tokio::test]
async fn a_failure_is_kept_and_tried_again() {
    let (jobs, mailer) = (BackfillClient::in_memory(), Mailer::default());
    let job = jobs.add(SendInvoice { order: 0 }).await.expect("add");
    assert_eq!(run(&jobs, &mailer).await.failed, 1);
    let kept = jobs.job(job.id).await.expect("job").expect("it is kept");
    assert_eq!((kept.attempts, kept.last_error.as_deref()), (1, Some("there is no order 0")));
    assert!(kept.run_at > job.run_at);
}

#[tokio::test]
async fn an_hour_later_the_invoice_is_sent() {
    let time: Arc<Mutex<DateTime<Utc>>> = Arc::new(Mutex::new(Utc::now()));
    let told = Arc::clone(&time);
    let clock = Clock::custom(move || *told.lock().unwrap_or_else(PoisonError::into_inner));
    let (jobs, mailer) = (BackfillClient::in_memory().with_clock(clock), Mailer::default());
    place_order(&jobs, 17).await.expect("order");
    assert_eq!(run(&jobs, &mailer).await.completed, 0);
    *time.lock().unwrap_or_else(PoisonError::into_inner) += Duration::from_secs(3601);
    assert_eq!(run(&jobs, &mailer).await.completed, 1);
    assert_eq!(mailer.sent(), [17]);
}

#[test]
fn the_guide_shows_what_is_run_here() {
    let (guide, file) = (include_str!("../docs/guides/testing.md"), include_str!("testing_guide.rs"));
    let shown: Vec<&str> =
        guide.split("```rust,ignore\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert_eq!(shown.len(), 5);
    for part in shown.iter().flat_map(|block| block.trim_end().split("\n\n")) {
        assert!(file.contains(part), "not as it is run:\n{part}");
    }
}
