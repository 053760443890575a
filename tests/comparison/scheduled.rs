use std::time::Duration;

use backfill::BackfillClient;

use super::SyncAccount;

async fn sync_in_an_hour(jobs: &BackfillClient, account: i64) -> Result<(), backfill::Error> {
    jobs.add(SyncAccount { account }).run_in(Duration::from_secs(3600)).await?;
    Ok(())
}

#[tokio::test]
async fn the_job_waits_for_its_time() {
    let jobs = BackfillClient::in_memory();
    sync_in_an_hour(&jobs, 7).await.expect("add");
    assert_eq!(jobs.counts().await.expect("counts").scheduled, 1);
}
