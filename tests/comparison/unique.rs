use backfill::BackfillClient;

use super::SyncAccount;

async fn sync_soon(jobs: &BackfillClient, account: i64) -> Result<(), backfill::Error> {
    jobs.add(SyncAccount { account }).key(format!("sync {account}")).await?;
    Ok(())
}

#[tokio::test]
async fn one_job_waits_for_each_account() {
    let jobs = BackfillClient::in_memory();
    for account in [7, 7, 8, 7] {
        sync_soon(&jobs, account).await.expect("add");
    }
    assert_eq!(jobs.counts().await.expect("counts").ready, 2);
}
