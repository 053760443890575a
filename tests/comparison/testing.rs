use std::error::Error;

use backfill::{BackfillClient, JobFilter};

use super::{SendInvoice, place_order, send_invoice};

#[tokio::test]
async fn an_order_sends_its_invoice() -> Result<(), Box<dyn Error>> {
    let jobs = BackfillClient::in_memory();
    place_order(&jobs, 17).await?;
    let added = jobs.jobs(&JobFilter::new().task("send_invoice")).await?;
    assert_eq!(added.len(), 1);
    assert_eq!(added[0].payload.decode::<SendInvoice>()?.order, 17);
    let done = jobs.worker().task(send_invoice).run_until_idle().await?;
    assert_eq!(done.completed, 1);
    Ok(())
}
