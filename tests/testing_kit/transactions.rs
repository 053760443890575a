//! A look into the caller's open transaction.

use backfill::testing::{Jobs, TestQueue, job, job_named};
use sqlx::Connection;

use crate::{SendInvoice, panic_of};

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test]
async fn jobs_of_an_open_transaction_are_seen_and_others_told_apart_in_postgresql() {
    let pool = sqlx::PgPool::connect(&crate::server()).await.expect("the test server");
    let queue = TestQueue::postgres(&pool).await;
    let jobs = queue.client();
    jobs.add(SendInvoice { order: 1 }).await.expect("add");

    let mut tx = pool.begin().await.expect("begin");
    jobs.add(SendInvoice { order: 17 }).within(&mut tx).await.expect("add");
    let mut savepoint = tx.begin().await.expect("savepoint");
    jobs.add(SendInvoice { order: 18 }).within(&mut savepoint).await.expect("add");
    savepoint.commit().await.expect("release");
    let added = TestQueue::within_tx(&jobs, &mut tx).await;
    assert_eq!(added.count(job::<SendInvoice>(), 2)[1].payload.order, 18);
    queue.jobs().await.one(job::<SendInvoice>().payload_with(|invoice| invoice.order == 1));

    jobs.add(SendInvoice { order: 19 }).await.expect("without the transaction");
    outside(&TestQueue::within_tx(&jobs, &mut tx).await);
    queue.fail_next_adds(1);
    jobs.add(SendInvoice { order: 20 }).within(&mut tx).await.expect_err("faults strike there too");
    tx.rollback().await.expect("rollback");
    assert_eq!(queue.jobs().await.len(), 2);
}

#[tokio::test]
async fn jobs_of_an_open_transaction_are_seen_and_others_told_apart_in_sqlite() {
    let queue = TestQueue::sqlite().await;
    let jobs = queue.client();
    let path = jobs.any_storage().sqlite().expect("SQLite").path().display().to_string();
    let pool = sqlx::SqlitePool::connect(&format!("sqlite://{path}")).await.expect("the file");
    // A transaction that has written keeps others from it: so the mistake is made before.
    jobs.add(SendInvoice { order: 19 }).await.expect("without the transaction");
    let mut tx = pool.begin_with("begin immediate").await.expect("begin");
    jobs.add(SendInvoice { order: 17 }).within(&mut tx).await.expect("add");
    let added = TestQueue::within_tx(&jobs, &mut tx).await;
    assert_eq!(added.one(job::<SendInvoice>()).payload.order, 17);
    outside(&added);
    queue.lose_answers(1);
    jobs.add(SendInvoice { order: 20 }).within(&mut tx).await.expect_err("faults strike there too");
    TestQueue::within_tx(&jobs, &mut tx).await.count(job::<SendInvoice>(), 2);
    tx.rollback().await.expect("rollback");
    queue.jobs().await.one(job::<SendInvoice>());
    pool.close().await;
}

fn outside(added: &Jobs) {
    let wanted = job::<SendInvoice>().payload_with(|invoice| invoice.order == 19);
    let text = panic_of(|| added.one(wanted));
    assert!(text.contains("a job outside of this transaction matches: it was added without it"), "{text}");
    assert!(text.contains("send_invoice {\"order\":19}"), "{text}");
    let text = panic_of(|| added.one(job_named("nothing_like_it")));
    assert!(!text.contains("outside"), "{text}");
}
