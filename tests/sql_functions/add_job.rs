//! `add_job`: its defaults, and a key in every state and mode.

use crate::pair::Pair;

#[tokio::test]
async fn add_job_with_defaults_and_with_everything() {
    let mut pair = Pair::new().await;
    assert!(pair.same("select * from S.add_job('a')").await.contains("notify {\"r\":…,\"count\":1}"));
    pair.same("select * from S.add_job('a', null, null, null, null, null, null, null, null)").await;
    pair.same(
        r#"select * from S.add_job(identifier := 'b', payload := '{"z":1, "a" : [1.50]}', queue_name := 'q', run_at := '2100-01-01T00:00:00Z',
           max_attempts := 3, job_key := 'k', priority := -7, flags := array['y','x','y'], job_key_mode := 'preserve_run_at')"#,
    )
    .await;
    pair.same("select * from S.add_job('', '{}', '')").await;
    pair.same("select * from S.add_job('a', 'null'::json)").await;
    pair.same("select * from S.add_job('a', null::json)").await;
    pair.same("select * from S.add_job('a', flags := '{}')").await;
    pair.same("select * from S.add_job('a', job_key_mode := 'nonsense')").await;
    pair.same("select * from S.add_job('a', job_key := 'k2', job_key_mode := null)").await;
    pair.same("select * from S.add_job(repeat('ü', 128), queue_name := repeat('é', 128), job_key := repeat('ñ', 512))")
        .await;
    pair.same("select count(*) as n from S.add_job('a')").await;
}

#[tokio::test]
async fn add_job_under_a_key_in_every_state_and_mode() {
    let mut pair = Pair::new().await;
    let states = [
        ("waiting", "true"),
        (
            "retrying",
            "update S._private_jobs set attempts = 2, last_error = 'e', run_at = '2100-01-01T00:00:00Z' where key = 'k'",
        ),
        ("dead", "update S._private_jobs set attempts = max_attempts, last_error = 'e' where key = 'k'"),
        ("past its maximum", "update S._private_jobs set attempts = max_attempts + 3 where key = 'k'"),
        (
            "locked",
            "update S._private_jobs set attempts = 1, locked_at = '2001-01-01T00:00:00Z', locked_by = 'w' where key = 'k'",
        ),
        (
            "locked at present",
            "update S._private_jobs set attempts = 1, locked_at = '2100-01-01T00:00:00Z', locked_by = 'w' where key = 'k'",
        ),
    ];
    for (state, reach) in states {
        for mode in ["'replace'", "'preserve_run_at'", "'unsafe_dedupe'", "null"] {
            pair.set("truncate S._private_jobs restart identity").await;
            pair.set(
                "select S.add_job('a', '[1, {\"b\":1,\"a\":2}]', 'q1', '2100-01-01T00:00:00Z', 5, 'k', 9, array['f'])",
            )
            .await;
            if reach != "true" {
                pair.set(reach).await;
            }
            for call in [
                format!("select * from S.add_job('b', '[3]', job_key := 'k', job_key_mode := {mode})"),
                format!(
                    "select * from S.add_job('b', '{{\"o\":1}}', 'q2', '2101-01-01T00:00:00Z', 2, 'k', 1, array['g'], {mode})"
                ),
            ] {
                let seen = pair.same(&call).await;
                assert!(!seen.starts_with("error"), "{state} {mode}: {seen}");
            }
        }
    }
    pair.same("select * from S.add_job('b', job_key := 'k', job_key_mode := 'nonsense')").await;
}
