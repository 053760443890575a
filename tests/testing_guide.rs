//! The tests that docs/guides/testing.md shows.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{Request, StatusCode};
use axum::routing::post;
use backfill::testing::{TestQueue, job, job_named, on_each_storage, within};
use backfill::{BackfillClient, TaskPayload, handler_with};
use proptest::prelude::*;
use tower::ServiceExt;

#[derive(Clone, Default)]
struct Mailer(Arc<Mutex<Vec<u64>>>);

impl Mailer {
    fn sent(&self) -> Vec<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[derive(serde::Serialize, serde::Deserialize, TaskPayload, PartialEq, Debug)]
struct SendInvoice {
    order: u64,
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

#[tokio::test]
async fn an_order_adds_a_job() {
    let queue = TestQueue::memory();
    place_order(&queue.client(), 17).await.expect("order");
    let invoice = queue.jobs().await.one(job::<SendInvoice>().due_in(within("1h", "5s")));
    assert_eq!(invoice.payload, SendInvoice { order: 17 });
}

#[tokio::test]
async fn a_second_order_adds_one_job_more() {
    let queue = TestQueue::memory();
    let jobs = queue.client();
    place_order(&jobs, 17).await.expect("order");
    let (placed, new) = queue.during(place_order(&jobs, 18)).await;
    placed.expect("order");
    assert_eq!(new.one(job::<SendInvoice>()).payload.order, 18);
}

#[tokio::test]
async fn the_queue_after_an_order() {
    let queue = TestQueue::memory();
    place_order(&queue.client(), 17).await.expect("order");
    assert_eq!(queue.jobs().await.snapshot(), "send_invoice {\"order\":17} in 1h\n");
}

#[tokio::test]
async fn an_unknown_order_is_tried_again() {
    let queue = TestQueue::memory();
    let task = handler_with(Mailer::default(), send_invoice);
    let done = queue.perform(task, SendInvoice { order: 0 }).attempt(3).await;
    done.assert_failed("no order 0").retried_in(within("20s", "1s"));
}

#[tokio::test]
async fn the_invoice_is_sent() {
    let (queue, mailer) = (TestQueue::memory(), Mailer::default());
    queue.client().add(SendInvoice { order: 17 }).await.expect("add");
    let worker = queue.worker().task(handler_with(mailer.clone(), send_invoice));
    queue.drain(worker).at_most(10).await.done().one(job::<SendInvoice>());
    assert_eq!(mailer.sent(), [17]);
    queue.assert_no_jobs_left().await;
}

#[tokio::test]
async fn an_add_fails_with_its_job() {
    let queue = TestQueue::memory();
    let jobs = queue.inline(queue.worker().task(handler_with(Mailer::default(), send_invoice)));
    let error = jobs.add(SendInvoice { order: 0 }).await.expect_err("the job fails");
    assert!(error.to_string().contains("there is no order 0"));
}

#[tokio::test]
async fn an_hour_later_the_invoice_is_sent() {
    let (queue, mailer) = (TestQueue::memory(), Mailer::default());
    let worker = || queue.worker().task(handler_with(mailer.clone(), send_invoice));
    place_order(&queue.client(), 17).await.expect("order");
    assert_eq!(queue.drain(worker()).await.started(), 0);
    queue.advance("1h").await;
    queue.drain(worker()).await.assert_all_done();
    assert_eq!(mailer.sent(), [17]);
}

#[tokio::test]
async fn the_report_is_due_each_night() {
    let queue = TestQueue::memory();
    queue.advance("25h").await;
    let crontab = queue.cron("0 4 * * * send_report").starting("2026-11-30T12:00:00Z".parse().expect("a time"));
    crontab.assert_due("send_report", 1);
    crontab.add_due().await.one(job_named("send_report"));
}

#[tokio::test]
async fn an_order_survives_an_add_that_fails() {
    let queue = TestQueue::memory();
    queue.fail_next_adds(1);
    place_order(&queue.client(), 17).await.expect_err("the storage refuses it");
    place_order(&queue.client(), 17).await.expect("again");
}

on_each_storage! {
    [memory, sqlite]

    async fn an_order_is_stored_anywhere(queue: TestQueue) {
        place_order(&queue.client(), 17).await.expect("order");
        queue.jobs().await.one(job::<SendInvoice>());
    }
}

#[tokio::test]
async fn the_handler_adds_a_job() {
    let queue = TestQueue::memory();
    let order = |State(jobs): State<BackfillClient>, Path(order): Path<u64>| async move {
        place_order(&jobs, order).await.map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
    };
    let app = Router::new().route("/orders/{order}", post(order)).with_state(queue.client());
    let request = Request::post("/orders/17").body(Body::empty()).expect("a request");
    let (response, new) = queue.during(app.oneshot(request)).await;
    assert_eq!(response.expect("a response").status(), StatusCode::OK);
    assert_eq!(new.one(job::<SendInvoice>()).payload.order, 17);
}

proptest! {
    #[test]
    fn each_order_adds_one_job(orders in proptest::collection::vec(1..1_000_u64, 0..20)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let queue = TestQueue::memory();
            for order in &orders {
                place_order(&queue.client(), *order).await.expect("order");
            }
            queue.jobs().await.count(job::<SendInvoice>(), orders.len());
        });
    }
}

#[test]
fn a_failing_assertion_reads_as_the_guide_shows() {
    let queue = TestQueue::memory();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(place_order(&queue.client(), 17)).expect("order");
    let jobs = runtime.block_on(queue.jobs());
    let failed = std::panic::catch_unwind(|| jobs.one(job::<SendInvoice>().due_in(within("2h", "5s"))));
    let text = failed.expect_err("it panics").downcast::<String>().expect("a text");
    assert!(include_str!("../docs/guides/testing.md").contains(&format!("```text\n{text}```")), "{text}");
}

#[test]
fn the_guide_shows_what_is_run_here() {
    let (guide, file) = (include_str!("../docs/guides/testing.md"), include_str!("testing_guide.rs"));
    let shown = guide.split("```rust,ignore\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    // (The macro of sqlx needs a database for each test.)
    let shown: Vec<&str> = shown.filter(|block| !block.contains("#[sqlx::test]")).collect();
    assert_eq!(shown.len(), 13);
    for part in shown.iter().flat_map(|block| block.trim_end().split("\n\n")) {
        assert!(file.contains(part), "not as it is run:\n{part}");
    }
}
