//! The mistakes that a test would not notice by itself. (Jobs that were added outside of a transaction are in `transactions`.)

use backfill::testing::{TestQueue, job};
use backfill::{JobSpec, task_fn};
use serde_json::json;

use crate::{SendInvoice, on_each, panic_in, panic_of, send_invoice};

on_each! {
    async fn a_payload_that_the_task_cannot_read_is_found_when_it_is_added(queue: TestQueue) {
        queue.client().add(JobSpec::new("send_invoice", json!({ "order_id": 17 }))).await.expect("add");
        let jobs = queue.jobs().await;
        let text = panic_of(|| jobs.one(job::<SendInvoice>()));
        let says = "payload: SendInvoice cannot be read from {\"order_id\":17}: missing field `order`";
        assert!(text.contains(says), "{text}");
    }

    async fn a_payload_that_the_task_cannot_read_is_found_when_it_runs(queue: TestQueue) {
        queue.client().add(JobSpec::new("send_invoice", json!({ "order_id": 17 }))).await.expect("add");
        let drain = || queue.drain(queue.worker().task(send_invoice));
        let text = panic_in(async { drain().await }).await;
        assert!(text.starts_with("a task could not read its payload, at tests/testing_kit/mistakes.rs:"), "{text}");
        assert!(text.contains("job 1: send_invoice {\"order_id\":17}") && text.contains("missing field `order`"), "{text}");
        queue.advance("1h").await;
        drain().lenient().await.failed().none(job::<SendInvoice>());
    }

    async fn a_task_that_is_not_registered_is_found(queue: TestQueue) {
        queue.client().add(JobSpec::new("send_invoces", 17)).await.expect("add");
        let tidy = || task_fn("tidy", |(), _: backfill::JobContext| async {});
        let drain = || queue.drain(queue.worker().task(send_invoice).task(tidy()));
        let text = panic_in(async { drain().await }).await;
        assert!(text.starts_with("jobs are ready that the worker at tests/testing_kit/mistakes.rs:"), "{text}");
        let says = "has no task for; its tasks are [\"send_invoice\", \"tidy\"]; did you mean \"send_invoice\"?";
        assert!(text.contains(says) && text.contains("job 1: send_invoces 17, ready"), "{text}");
        assert_eq!(drain().lenient().await.started(), 0);
        let text = panic_in(async { queue.perform_by(queue.worker().task(tidy()), SendInvoice { order: 1 }).await }).await;
        assert!(text.starts_with("the task \"send_invoice\" is not registered with the worker at"), "{text}");
    }
}
