use std::error::Error;

use backfill::{BackfillClient, TaskPayload, Worker};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, TaskPayload)]
struct NightlyReport {}

async fn nightly_report(_: NightlyReport) {}

fn set_up(jobs: &BackfillClient) -> Result<Worker, Box<dyn Error>> {
    let crontab = "0 4 * * * nightly_report".parse()?;
    Ok(jobs.worker().task(nightly_report).crontab(crontab).build()?)
}

#[tokio::test]
async fn the_crontab_is_one() {
    let worker = set_up(&BackfillClient::in_memory()).expect("worker");
    assert_eq!(worker.tasks(), ["nightly_report"]);
}
