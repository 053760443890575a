use std::error::Error;
use std::time::Duration;

use backfill::sqlx::PgPool;
use backfill::sqlx::postgres::PgPoolOptions;
use backfill::{BackfillClient, sqlx};

use super::SendInvoice;

async fn place_order(pool: &PgPool, jobs: &BackfillClient) -> Result<(), Box<dyn Error>> {
    let mut tx = pool.begin().await?;
    let insert = sqlx::query_scalar("insert into orders default values returning id");
    let order: i64 = insert.fetch_one(&mut *tx).await?;
    jobs.add(SendInvoice { order }).within(&mut tx).await?;
    tx.commit().await?;
    Ok(())
}

#[tokio::test]
async fn without_a_server_nothing_is_added() {
    // It shows that the program compiles, and fails where the server would be.
    let pool = PgPoolOptions::new().acquire_timeout(Duration::from_millis(50));
    let pool = pool.connect_lazy("postgres://127.0.0.1:1/none").expect("a pool");
    let jobs = BackfillClient::in_memory();
    assert!(place_order(&pool, &jobs).await.is_err());
    assert_eq!(jobs.counts().await.expect("counts").total(), 0);
}
