use std::error::Error;

use backfill::{BackfillClient, TaskPayload, Worker, handler_with};
use serde::{Deserialize, Serialize};

use super::Mailer;

#[derive(Serialize, Deserialize, TaskPayload)]
#[task(max_attempts = 3)]
struct SendInvoice {
    order: u64,
}

async fn send_invoice(mailer: Mailer, job: SendInvoice) -> Result<(), std::io::Error> {
    mailer.send(job.order).await
}

async fn set_up(jobs: BackfillClient, mailer: Mailer) -> Result<Worker, Box<dyn Error>> {
    jobs.add(SendInvoice { order: 17 }).await?;
    Ok(jobs.worker().task(handler_with(mailer, send_invoice)).build()?)
}

#[tokio::test]
async fn the_task_gets_its_mailer() {
    let (jobs, mailer) = (BackfillClient::in_memory(), Mailer::default());
    let worker = set_up(jobs.clone(), mailer.clone()).await.expect("worker");
    assert_eq!(worker.run_until_idle().await.expect("run").completed, 1);
    assert_eq!(mailer.sent(), [17]);
}
