//! Faults that a test asks for.

use backfill::JobSpec;
use backfill::testing::{TestQueue, job, job_named};

use crate::{SendInvoice, on_each, panic_in, place_order, send_invoice};

on_each! {
    async fn so_many_adds_fail_and_store_nothing(queue: TestQueue) {
        let jobs = queue.client();
        queue.fail_next_adds(2);
        for _ in 0..2 {
            let error = place_order(&jobs, 17).await.expect_err("it fails");
            assert!(error.is_refusal() && error.to_string().contains("the test lets this add fail"), "{error}");
        }
        queue.assert_no_jobs_left().await;
        place_order(&jobs, 17).await.expect("order");
        assert_eq!(queue.jobs().await.len(), 2);
    }

    async fn an_add_whose_answer_is_lost_is_stored(queue: TestQueue) {
        let jobs = queue.client();
        queue.lose_answers(1);
        let add = || jobs.add(JobSpec::new("t", 1)).key("once");
        let error = add().await.expect_err("its answer is lost");
        assert!(error.is_transient() && !error.is_refusal(), "{error}");
        queue.jobs().await.one(job_named("t"));
        add().await.expect("again");
        queue.jobs().await.one(job_named("t").key("once"));
    }

    async fn a_storage_that_is_away_is_reached_again_when_it_is_back(queue: TestQueue) {
        let jobs = queue.client();
        queue.away();
        assert!(place_order(&jobs, 17).await.expect_err("it is away").is_away());
        queue.jobs().await.assert_empty();
        let text = panic_in(async { queue.drain(queue.worker().task(send_invoice)).await }).await;
        assert!(text.starts_with("the worker failed at tests/testing_kit/faults.rs:"), "{text}");
        queue.back();
        place_order(&jobs, 17).await.expect("order");
    }

    async fn lost_answers_of_claims_and_results_start_each_job_once(queue: TestQueue) {
        queue.client().add_many((1..20).map(|order| SendInvoice { order })).await.expect("add");
        queue.faults().lose_claims(2);
        queue.faults().lose_settles(2);
        let worker = queue.worker().task(send_invoice).build().expect("worker");
        let shutdown = worker.shutdown_handle();
        let running = tokio::spawn(async move { worker.run().await });
        queue.wait_for_none(job::<SendInvoice>(), "60s").await;
        shutdown.shutdown();
        let summary = running.await.expect("no panic").expect("run");
        assert_eq!((summary.completed, summary.stale), (19, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_storage_takes_so_much_longer() {
    let queue = TestQueue::memory();
    queue.slow("3s");
    let begun = tokio::time::Instant::now();
    queue.client().add(JobSpec::new("t", 1)).await.expect("add");
    assert_eq!(begun.elapsed().as_secs(), 3);
    queue.slow("0s");
    queue.client().add(JobSpec::new("t", 1)).await.expect("add");
    assert_eq!(begun.elapsed().as_secs(), 3);
}
