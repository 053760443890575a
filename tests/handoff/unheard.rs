//! What was handed off and not heard of.

use std::sync::atomic::Ordering;

use backfill::BackfillClient;

use crate::support::running::empty;
use crate::support::{LISTENS, ask, client, database, sql, until};
use crate::{UNHEARD, add_until_handed, counting, listening};

#[tokio::test]
async fn what_was_handed_off_and_not_heard_is_released_when_the_listener_was_lost() {
    let (pool, url) = database().await;
    let client = BackfillClient::new(&url).await.expect("migrate");
    let (worker, starts) = counting(&client);
    let (running, _events) = listening(worker).await;
    add_until_handed(&client).await;
    empty(&client).await;
    let before = starts.load(Ordering::SeqCst);
    sql(&pool, "graphile_worker", UNHEARD).await;
    let kill = format!("select count(pg_terminate_backend(pid)) from pg_stat_activity where {LISTENS}");
    until("the listener is gone", || async { ask(&pool, "x", &kill).await != "0" }).await;
    until("it runs all the same", || async { starts.load(Ordering::SeqCst) == before + 1 }).await;
    empty(&client).await;
    add_until_handed(&client).await;
    empty(&client).await;
    let summary = running.end().await;
    assert_eq!((summary.failed, summary.stale), (0, 0), "and what ran was not released");
}

#[tokio::test]
async fn what_is_handed_off_at_the_end_is_released() {
    let (client, pool, schema) = client().await;
    let (worker, starts) = counting(&client);
    let (running, _events) = listening(worker).await;
    add_until_handed(&client).await;
    empty(&client).await;
    let before = starts.load(Ordering::SeqCst);
    sql(&pool, &schema, UNHEARD).await;
    running.end().await;
    let waits = "select count(*) from S._private_jobs where locked_by is null and attempts = 0";
    assert_eq!(ask(&pool, &schema, waits).await, "1");
    assert_eq!(starts.load(Ordering::SeqCst), before);
}
