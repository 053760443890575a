//! A worker on a storage of one's own, and a job that survives a restart.
//!
//! ```sh
//! cargo run --example toy_storage                    # adds a job, and ends before it has run
//! cargo run --example toy_storage                    # runs it
//! ```

mod storage;

use backfill::{BackfillClient, Worker, task_fn};
use storage::ToyStorage;

#[tokio::main]
async fn main() -> backfill::Result<()> {
    let path = std::env::args().nth(1).unwrap_or_else(|| "toy.json".to_owned());
    let jobs = BackfillClient::with_storage(std::sync::Arc::new(ToyStorage::open(&path)?));
    if jobs.counts().await?.alive() == 0 {
        let job = jobs.add(backfill::JobSpec::new("greet", "Ada")).await?;
        println!("job {} is in {path}; start this again to run it", job.id);
        return Ok(());
    }
    let greet = task_fn("greet", |name: String, _| async move { println!("hello {name}") });
    let summary = Worker::builder(jobs).task(greet).build()?.run_until_idle().await?;
    println!("{} done", summary.completed);
    Ok(())
}
