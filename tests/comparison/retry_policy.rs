use std::time::Duration;

use backfill::{BackfillClient, RetryPolicy, Worker, handler};

use super::send_invoice;

fn set_up(jobs: &BackfillClient) -> Result<Worker, backfill::Error> {
    let policy = RetryPolicy::exponential(Duration::from_secs(1), 2.0, Duration::from_secs(3600));
    jobs.worker().task(handler(send_invoice).retry(policy)).build()
}

#[tokio::test]
async fn a_failed_job_waits_for_its_policy() {
    let jobs = BackfillClient::in_memory();
    // No order has a negative number.
    let job = jobs.add(super::SendInvoice { order: -1 }).await.expect("add");
    assert_eq!(set_up(&jobs).expect("worker").run_until_idle().await.expect("run").failed, 1);
    let kept = jobs.job(job.id).await.expect("job").expect("it is kept");
    let wait = kept.run_at - job.run_at;
    assert!((900..=3_000).contains(&wait.num_milliseconds()), "{wait}");
}
