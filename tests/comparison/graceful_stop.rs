use std::time::Duration;

use backfill::BackfillClient;

use super::send_invoice;

async fn work(jobs: BackfillClient) -> Result<(), backfill::Error> {
    jobs.worker().task(send_invoice).grace(Duration::from_secs(20)).run().await?;
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
