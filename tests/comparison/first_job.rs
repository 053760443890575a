use backfill::TaskPayload;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, TaskPayload)]
struct SendInvoice {
    order: u64,
}

async fn send_invoice(job: SendInvoice) -> Result<(), std::io::Error> {
    std::fs::write(format!("invoice-{}", job.order), "")
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let jobs = backfill::connect("postgres://localhost/app").await?;
    jobs.add(SendInvoice { order: 17 }).await?;
    jobs.worker().task(send_invoice).run().await?;
    Ok(())
}

#[test]
fn its_program_is_compiled() {
    // It would connect, so it is not run.
    let _: fn() -> Result<(), Box<dyn std::error::Error>> = main;
}
