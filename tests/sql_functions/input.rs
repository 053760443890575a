//! Bad input, and random calls in a row.

use crate::pair::{Pair, Rows};
use crate::spec;

#[tokio::test]
async fn bad_input_gives_the_same_errors() {
    let mut pair = Pair::new().await;
    let calls = [
        ("23514", "select * from S.add_job(repeat('x', 129))".to_owned()),
        ("23502", "select * from S.add_job(null)".to_owned()),
        ("23514", "select * from S.add_job('a', queue_name := repeat('x', 129))".to_owned()),
        ("23514", "select * from S.add_job('a', job_key := '')".to_owned()),
        ("23514", "select * from S.add_job('a', job_key := repeat('x', 513))".to_owned()),
        ("23514", "select * from S.add_job('a', max_attempts := 0)".to_owned()),
        ("22003", "select * from S.add_job('a', max_attempts := 32768)".to_owned()),
        ("22003", "select * from S.add_job('a', priority := -32769)".to_owned()),
        ("22023", "select * from S.add_job('a', flags := array['x', null])".to_owned()),
        ("GWBKM", "select * from S.add_job('a', job_key := 'k', job_key_mode := 'nonsense')".to_owned()),
        ("23514", "select * from S.add_job('a', job_key := '', job_key_mode := 'unsafe_dedupe')".to_owned()),
        (
            "22003",
            "select * from S.add_job('a', priority := 99999, job_key := 'k', job_key_mode := 'unsafe_dedupe')"
                .to_owned(),
        ),
        ("21000", {
            let one = spec("'a', null, null, null, null, 'k', null, null");
            format!("select * from S.add_jobs(array[{one}, {one}])")
        }),
        ("23514", format!("select * from S.add_jobs(array[{}])", spec("'a', null, null, null, 0, null, null, null"))),
        ("22003", "select * from S.reschedule_jobs(array[1::bigint], priority := 40000)".to_owned()),
    ];
    for (code, call) in calls {
        pair.set("truncate S._private_jobs restart identity").await;
        pair.set("select S.add_job('one')").await;
        let seen = pair.same(&call).await;
        assert!(seen.starts_with(&format!("error {code}")), "{call}: {seen}");
    }
    // Joining goes through jsonb, which cannot hold a NUL.
    pair.set(r#"select S.add_job('a', '["\u0000"]', job_key := 'k')"#).await;
    assert!(pair.same(r"select * from S.add_job('a', '[1]', job_key := 'k')").await.starts_with("error 22P05"));
}

/// Several hundred random calls in a row, each of which meets whatever the ones before have left.
#[tokio::test]
async fn random_calls_in_a_row_never_differ() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("SEED={seed} repeats this run");
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut pair = Pair::new().await;
    for _ in 0..400 {
        let mut pick = |of: &[&str]| of[rng.usize(..of.len())].to_owned();
        let task = pick(&["'a'", "'b'", "'c'", "'ü'"]);
        let payload = pick(&["null", "'{}'", "'[1]'", "'[2,{\"b\":1,\"a\":1}]'", "'\"text\"'", "'null'"]);
        let queue = pick(&["null", "null", "'q1'", "'q2'", "''"]);
        let run_at = pick(&["null", "'2001-01-01T00:00:00Z'", "'2100-01-01T00:00:00Z'"]);
        let max = pick(&["null", "1", "3", "0"]);
        let key = pick(&["null", "'k1'", "'k2'", "'k3'", "'k4'"]);
        let priority = pick(&["null", "0", "-5", "99"]);
        let flags = pick(&["null", "'{}'", "array['x']", "array['y','x']"]);
        let mode = pick(&["'replace'", "'preserve_run_at'", "'unsafe_dedupe'", "null", "'other'"]);
        // Jobs are named by what they are: a call that fails burns numbers in whatever order its plan has.
        let jobs = format!(
            "array(select id from S._private_jobs where task_id in (select id from S._private_tasks where identifier = {task}))"
        );
        let call = match rng.u8(..12) {
            0..=4 => format!(
                "select * from S.add_job({task}, {payload}, {queue}, {run_at}, {max}, {key}, {priority}, {flags}, {mode})"
            ),
            5..=6 => {
                let one = spec(&format!("{task}, {payload}, {queue}, {run_at}, {max}, {key}, {priority}, {flags}"));
                let two = spec(&format!("'d', {payload}, {queue}, {run_at}, 2, 'k1', {priority}, {flags}"));
                format!("select * from S.add_jobs(array[{one}, {two}], {})", mode == "'preserve_run_at'")
            }
            7 => format!("select * from S.remove_job({key})"),
            8 => format!("select * from S.complete_jobs({jobs})"),
            9 => format!("select * from S.permanently_fail_jobs({jobs}, {payload})"),
            10 => format!("select * from S.reschedule_jobs({jobs}, {run_at}, {priority}, 0, {max})"),
            _ => {
                let lock = "update S._private_jobs set attempts = attempts + 1, locked_by = 'w', locked_at =";
                pair.set(&format!("{lock} '2100-01-01T00:00:00Z' where key in ('k1', 'k3') and is_available")).await;
                "select S.force_unlock_workers(array[]::text[])::text as t".to_owned()
            }
        };
        pair.compare(&call, Rows::WithoutNumbers).await;
    }
}
