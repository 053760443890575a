//! Calls beside a claim of the same key.

use sqlx::AssertSqlSafe;
use sqlx::postgres::PgPoolOptions;

use crate::pair::{Pair, S};
use crate::spec;
use crate::support::{self, sql};

/// What is under a key while the same key is being claimed: the rows that the call answers, and what is stored.
async fn added_beside_a_claim(setup: &str, call: &str) -> (String, String) {
    let (_, pool, schema) = support::client().await;
    sql(&pool, &schema, setup).await;
    let mut claim = pool.begin().await.expect("begin");
    let mark = format!("update \"{schema}\"._private_jobs set locked_at = now(), locked_by = 'w', attempts = 1");
    sqlx::query(AssertSqlSafe(mark)).execute(&mut *claim).await.expect("claim");
    let adding = {
        let (pool, schema) = (pool.clone(), schema.clone());
        let call =
            format!("select string_agg(coalesce(key, '-') || payload, ' ' order by payload::text) from ({call}) as t");
        tokio::spawn(async move { support::ask(&pool, &schema, &call).await })
    };
    support::until("the call waits for the row", || async {
        let waiting =
            format!("select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query like '%{schema}%'");
        support::ask(&pool, &schema, &waiting).await == "1"
    })
    .await;
    claim.commit().await.expect("commit");
    let answered = support::soon("the call ends", adding).await.expect("no panic");
    let rows = "select string_agg(coalesce(key, '-') || payload || case when is_available then '' else '!' end, ' ' order by payload::text) from S._private_jobs";
    (answered, support::ask(&pool, &schema, rows).await)
}

#[tokio::test]
async fn no_job_of_a_batch_is_lost_to_a_claim_of_one_key() {
    let setup = "select S.add_job('a', '1', job_key := 'k')";
    let keyed = spec("'a', '2', null, null, null, 'k', null, null");
    let plain = spec("'a', '3', null, null, null, null, null, null");
    let other = spec("'a', '4', null, null, null, 'l', null, null");
    for specs in [
        format!("array[{keyed}, {plain}]"),
        format!("array[{plain}, {keyed}]"),
        format!("('[4:5]=' || array[{plain}, {keyed}]::text)::S.job_spec[]"),
        format!("array[[{plain}], [{keyed}]]"),
    ] {
        let seen = added_beside_a_claim(setup, &format!("select * from S.add_jobs({specs})")).await;
        assert_eq!(seen, ("k2 -3".to_owned(), "-1! k2 -3".to_owned()), "{specs}");
    }
    let specs = format!("array[{other}, {keyed}, {plain}]");
    let seen = added_beside_a_claim(setup, &format!("select * from S.add_jobs({specs})")).await;
    assert_eq!(seen, ("k2 -3 l4".to_owned(), "-1! k2 -3 l4".to_owned()));
    // Also where a trigger could drop rows, but did not.
    let trigger = "create function S.t() returns trigger language plpgsql as 'begin return new; end';
        create trigger t before insert on S._private_jobs for each row execute function S.t();";
    let seen = added_beside_a_claim(&format!("{trigger} {setup}"), &format!("select * from S.add_jobs({specs})")).await;
    assert_eq!(seen, ("k2 -3 l4".to_owned(), "-1! k2 -3 l4".to_owned()));
}

/// The race in which Node's function answers a row of nulls and stores nothing.
#[tokio::test]
async fn add_job_survives_a_claim_between_its_two_looks() {
    let mut pair = Pair::new().await;
    pair.set("select S.add_job('a', job_key := 'k')").await;
    let url = support::url_of(
        &sqlx::query_scalar::<_, String>("select current_database()").fetch_one(&pair.ours.pool).await.expect("name"),
    );
    let other = PgPoolOptions::new().max_connections(2).connect(&url).await.expect("connect");
    let mut claim = other.begin().await.expect("begin");
    sqlx::query("update graphile_worker._private_jobs set locked_at = now(), locked_by = 'w', attempts = 1")
        .execute(&mut *claim)
        .await
        .expect("claim");
    let adding = pair.ours.pool.clone();
    let added = tokio::spawn(async move {
        sqlx::query_scalar::<_, i64>("select id from graphile_worker.add_job('a', '\"new\"', job_key := 'k')")
            .fetch_one(&adding)
            .await
    });
    support::until("the call waits for the row", || async {
        let waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query like '%add_job(%' and datname = current_database()";
        sqlx::query_scalar::<_, i64>(waiting).fetch_one(&other).await.expect("activity") == 1
    })
    .await;
    claim.commit().await.expect("commit");
    let id = support::soon("the call ends", added).await.expect("no panic").expect("a row, not nulls");
    let seen =
        support::ask(&other, S, "select id || coalesce(key, '-') || attempts from S._private_jobs order by id").await;
    assert_eq!(seen, format!("1-25;{id}k0"));
}
