//! Adds a job, and runs it.

use backfill::TaskPayload;

/// A job of the task `send_invoice`.
#[derive(serde::Serialize, serde::Deserialize, TaskPayload)]
struct SendInvoice {
    order: u64,
}

/// The task. An error is kept, and the job is tried again later.
async fn send_invoice(job: SendInvoice) -> Result<(), std::io::Error> {
    println!("the invoice for order {} is sent", job.order);
    Ok(())
}

#[tokio::main]
async fn main() -> backfill::Result<()> {
    let jobs = backfill::connect("sqlite://jobs.db").await?; // creates the file and its tables
    jobs.add(SendInvoice { order: 17 }).await?;
    let done = jobs.worker().task(send_invoice).run_until_idle().await?; // `run()` goes on until Ctrl-C or SIGTERM
    println!("{} done", done.completed);
    Ok(())
}
