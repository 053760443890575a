use backfill::BackfillClient;

use super::SyncAccount;

async fn sync_in_turn(jobs: &BackfillClient, account: i64) -> Result<(), backfill::Error> {
    jobs.add(SyncAccount { account }).serial_queue(format!("account {account}")).await?;
    Ok(())
}

#[tokio::test]
async fn each_account_has_a_queue() {
    let jobs = BackfillClient::in_memory();
    for account in [7, 7, 8] {
        sync_in_turn(&jobs, account).await.expect("add");
    }
    let queues = jobs.queues().await.expect("queues");
    assert_eq!(queues.iter().map(|queue| queue.name.as_str()).collect::<Vec<_>>(), ["account 7", "account 8"]);
}
