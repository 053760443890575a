use std::time::Duration;

use backfill::{BackfillClient, Worker};

use super::send_invoice;

async fn work(jobs: BackfillClient) -> Result<(), backfill::Error> {
    let worker = Worker::builder(jobs).task(send_invoice).grace(Duration::from_secs(20)).build()?;
    worker.run().await?;
    Ok(())
}

#[tokio::test]
async fn it_works_until_it_is_told_to_end() {
    let jobs = BackfillClient::in_memory();
    jobs.add(super::SendInvoice { order: 17 }).await.expect("add");
    let working = tokio::time::timeout(Duration::from_millis(200), work(jobs.clone())).await;
    assert!(working.is_err(), "no signal came");
    assert_eq!(jobs.counts().await.expect("counts").total(), 0);
}
