//! `add_jobs`: batches of any size, in arrays of any shape.

use crate::pair::{Pair, Rows};
use crate::spec;
use crate::support;

#[tokio::test]
async fn add_jobs_in_batches() {
    let mut pair = Pair::new().await;
    let many: Vec<String> = (0..60)
        .map(|n| {
            spec(&format!(
                "'task{}', '{n}', {}, null, {n} + 1, {}, {}, array['f{}']",
                n % 7,
                if n % 3 == 0 { format!("'q{}'", n % 4) } else { "null".to_owned() },
                if n % 5 == 0 { format!("'k{n}'") } else { "null".to_owned() },
                n - 30,
                n % 3
            ))
        })
        .collect();
    let call = |flag: &str| format!("select * from S.add_jobs(array[{}], {flag})", many.join(","));
    assert!(pair.compare(&call("false"), Rows::WithoutNumbers).await.contains("\"count\":60"));
    pair.compare(&call("true"), Rows::WithoutNumbers).await;
    pair.set(
        "update S._private_jobs set locked_at = '2100-01-01T00:00:00Z', locked_by = 'w' where key in ('k0', 'k10')",
    )
    .await;
    pair.set("update S._private_jobs set attempts = max_attempts where key in ('k5', 'k15')").await;
    pair.set("update S._private_jobs set attempts = 1, run_at = '2100-01-01T00:00:00Z' where key in ('k20', 'k25')")
        .await;
    pair.compare(&call("true"), Rows::WithoutNumbers).await;
    pair.compare(&call("null"), Rows::WithoutNumbers).await;
    pair.compare(
        &format!("select * from S.add_jobs(array[{}])", spec("'n', null, null, null, null, null, null, null")),
        Rows::WithoutNumbers,
    )
    .await;
}

#[tokio::test]
async fn add_jobs_with_nothing_still_notifies() {
    let mut pair = Pair::new().await;
    assert!(pair.same("select * from S.add_jobs('{}'::S.job_spec[])").await.contains("notify \"\""));
    assert!(pair.same("select * from S.add_jobs(null::S.job_spec[])").await.contains("notify \"\""));
}

#[tokio::test]
async fn add_jobs_takes_arrays_of_any_shape() {
    let mut pair = Pair::new().await;
    let one = |n: i32| spec(&format!("'a', '{n}', null, null, null, 'k{n}', null, null"));
    let two = |n: i32| spec(&format!("'a', '{n}', 'q', null, null, null, null, null"));
    let pairs = format!("array[{}, {}]", one(1), two(2));
    for specs in [
        format!("('[0:1]=' || {pairs}::text)::S.job_spec[]"),
        format!("('[5:6]=' || {pairs}::text)::S.job_spec[]"),
        format!("('[-7:-6]=' || {pairs}::text)::S.job_spec[]"),
        format!("array[[{}, {}, {}], [{}, {}, {}]]", one(1), two(2), one(3), two(4), one(5), two(6)),
        format!("array[array[{}]]", one(9)),
        format!("({pairs})[2:2]"),
        format!("array[{}, null]", two(1)),
        "array[null::S.job_spec]".to_owned(),
    ] {
        let seen = pair.compare(&format!("select * from S.add_jobs({specs})"), Rows::WithoutNumbers).await;
        assert!(!seen.starts_with("nothing"), "{seen}");
    }
}

#[tokio::test]
async fn add_jobs_stores_a_batch_of_any_size_in_time_that_grows_with_it() {
    let pool = support::client().await;
    // Where each spec costs more the larger the batch is, this takes several times the timeout of all tests.
    let call = "select count(*) || ' ' || count(distinct job.id) from S.add_jobs((
          select array_agg(row('a', '{}'::json, null, null, null, case when n % 2 = 0 then 'k' || n end, null, null)::S.job_spec)
          from generate_series(1, 150000) as n
        )) as job";
    assert_eq!(support::soon("the batch is stored", support::ask(&pool.1, &pool.2, call)).await, "150000 150000");
}
