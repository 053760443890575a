//! Rows in an SQLite file that are no text.

use backfill::storage::JobFilter;
use backfill::{BackfillClient, JobSpec};

use crate::{DAMAGED, is_told, rescues_all, run_all};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_file_workers_and_names_that_are_no_text_hold_up_nobody() {
    let directory = tempfile::TempDir::new().expect("a directory");
    let url = format!("sqlite://{}/app.db", directory.path().display());
    let client = BackfillClient::new(&url).await.expect("open");
    for n in 1..=5 {
        client.add(JobSpec::new("t", n)).await.expect("add");
    }
    let pool = sqlx::SqlitePool::connect(&url).await.expect("open");
    let damage = "
        insert into backfill_pools (id, started_at, seen_at, serves)
          values (cast(x'e9' as text), 1, 1, cast(x'5b22e9225d' as text)), ('dead', 1, 1, null);
        update backfill_jobs set locked_at = 1, locked_by = cast(x'e9' as text) where id = 1;
        update backfill_jobs set locked_at = 1, locked_by = 'dead' where id = 2;
        update backfill_jobs set locked_at = 1, locked_by = cast(x'e978' as text) where id = 3;
        update backfill_jobs set queue = cast(x'c3' as text) where id = 4;
        insert into backfill_queues (name, locked_at, locked_by) values (cast(x'e9' as text), 1, cast(x'e9' as text));
        insert into backfill_queues (name) values (cast(x'c3' as text));
        insert into backfill_tasks (name) values (cast(x'e9' as text));
        insert into backfill_crontabs (identifier, known_since, last_execution)
          values (cast(x'e9' as text), 1, 9000000000000000);";
    sqlx::raw_sql(damage).execute(&pool).await.expect("damage");
    is_told(&client).await;
    rescues_all(&client).await;
    // What stands in a queue that cannot be named waits, and all others run.
    assert_eq!(run_all(&client).await.into_iter().map(|(id, _)| id).collect::<Vec<_>>(), [3, 4]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_file_rows_that_are_no_text_stop_nothing_and_fail_by_themselves() {
    let directory = tempfile::TempDir::new().expect("a directory");
    let url = format!("sqlite://{}/app.db", directory.path().display());
    let client = BackfillClient::new(&url).await.expect("open");
    for n in 1..=5 {
        client.add(JobSpec::new("t", n).key(format!("k{n}"))).await.expect("add");
    }
    let pool = sqlx::SqlitePool::connect(&url).await.expect("open");
    let damage = "
        update backfill_jobs set payload = cast(x'22e922' as text) where id = 1;
        update backfill_jobs set key = cast(x'e9' as text) where id = 2;
        update backfill_jobs set last_error = cast(x'e9' as text) where id = 3;
        update backfill_jobs set run_at = -9223372036854775808, created_at = 9223372036854775807 where id = 4;";
    sqlx::raw_sql(damage).execute(&pool).await.expect("damage");
    assert_eq!(client.jobs(&JobFilter::new()).await.expect("jobs").len(), 5);
    let error = client
        .storage()
        .require_transfer()
        .expect("transfer")
        .reserve("move-1", None, 100, u64::MAX)
        .await
        .expect_err("not as it is");
    assert!(error.to_string().contains("the payload of job 1 is not valid UTF-8"), "{error}");
    client.unlock(["move-1"]).await.expect("unlock");
    assert_eq!(run_all(&client).await, [(1, Some(DAMAGED.to_owned()))]);
}
