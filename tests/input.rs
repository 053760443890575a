//! Whatever is put in comes out as data, or is refused by a rule before anything is written.

mod support;

use std::time::Duration;

use backfill::cron::{Dialect, Schedule};
use backfill::storage::Cleanup;
use backfill::{
    BackfillClient, CronEntry, Crontab, Error, JobContext, JobFilter, JobSpec, Payload, Reschedule, Worker, task_fn,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::Value;
use support::{ask, client, database, soon, until};

/// Strings that have broken somebody's program: SQL, quoting, formats, control characters, directions, lengths.
fn hostile() -> Vec<String> {
    let mut all: Vec<String> = [
        "'; drop schema graphile_worker cascade; --",
        "\"; delete from _private_jobs; --",
        "graphile_worker._private_jobs",
        "$$ $body0$ $1 ?2 :3 %s %I {0} ${HOME} `id`",
        "\\' \\\" \\\\ \\u0000 \\x00",
        "{}[],\"null\"",
        "NULL",
        "null",
        "../../etc/passwd",
        "-c postgres://u:p@h/d",
        "--",
        "\u{202e}rtl \u{200b}zero\u{feff}",
        "ünï \u{1f980}\u{0301} \u{fffd}",
        "line\nbreak\ttab\r\u{7}\u{1b}[31m",
        " ",
        "a b",
        "jobs:insert",
    ]
    .map(str::to_owned)
    .into();
    all.push("x".repeat(64));
    all.push("é".repeat(60));
    all
}

async fn count(pool: &sqlx::PgPool, schema: &str) -> String {
    ask(pool, schema, "select count(*) from S._private_jobs").await
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test]
async fn hostile_strings_are_data_in_every_verb() {
    let (client, pool, schema) = client().await;
    let storage = client.storage().consumer();
    for text in hostile() {
        let spec = JobSpec::new(&text, &text).serial_queue(&text).key(&text).flag(&text);
        let job = client.add(spec).await.unwrap_or_else(|error| panic!("{text:?}: {error}"));
        assert_eq!((&job.task, job.queue.as_ref(), job.key.as_ref()), (&text, Some(&text), Some(&text)));
        for filter in [JobFilter::new().task(&text), JobFilter::new().queue(&text), JobFilter::new().key(&text)] {
            assert_eq!(client.jobs(&filter).await.expect("jobs").len(), 1, "{text:?}");
        }
        assert!(client.tasks().await.expect("tasks").iter().any(|task| task.name == text));
        assert!(client.queues().await.expect("queues").iter().any(|queue| queue.name == text));
        let failed = client.discard(&[job.id], &text).await.expect("discard");
        assert_eq!(failed[0].last_error.as_ref(), Some(&text));
        client.reschedule(&[job.id], &Reschedule::new().attempts(0)).await.expect("reschedule");
        assert_eq!(client.unlock([text.as_str()]).await.expect("unlock"), 0);
        storage.require_admin().expect("admin").cleanup(&Cleanup::new().tasks([text.as_str()])).await.expect("cleanup");
        assert!(client.tasks().await.expect("tasks").iter().any(|task| task.name == text), "kept");
        // A worker serves it, and leaves it alone when its flag is forbidden.
        for (forbidden, left) in [(Some(&text), "1"), (None, "0")] {
            let worker = Worker::builder(client.clone())
                .task(task_fn(&text, |_: String, _ctx: JobContext| async {}))
                .forbidden_flags(forbidden)
                .build()
                .unwrap_or_else(|error| panic!("{text:?}: {error}"));
            worker.run_until_idle().await.expect("run");
            assert_eq!(count(&pool, &schema).await, left, "{text:?}");
        }
        // A crontab entry by this name.
        let entry = CronEntry::new(&text, Schedule::expression("0 * * * * *").expect("a schedule")).identifier(&text);
        Worker::builder(client.clone()).cron(entry).build().unwrap_or_else(|error| panic!("{text:?}: {error}"));
        storage
            .require_schedules()
            .expect("schedules")
            .register_crontabs(std::slice::from_ref(&text), chrono::Utc::now())
            .await
            .expect("register");
        assert!(client.crontabs().await.expect("crontabs").iter().any(|known| known.identifier == text));
        assert!(client.remove(&text).await.expect("remove").is_none());
    }
    storage.version().await.expect("the schema is whole");
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test]
async fn a_nul_character_is_refused_before_anything_is_written() {
    let (client, pool, schema) = client().await;
    let bad = "a\0b";
    for spec in [
        JobSpec::new(bad, ()),
        JobSpec::new("t", ()).serial_queue(bad),
        JobSpec::new("t", ()).key(bad),
        JobSpec::new("t", ()).flag(bad),
    ] {
        let error = client.add_many([JobSpec::new("t", ()), spec]).await.expect_err("refused");
        assert!(matches!(error, Error::InvalidJob { .. }) && error.to_string().contains("NUL"), "{error}");
    }
    assert_eq!(count(&pool, &schema).await, "0");
    // In a payload it is JSON's affair: escaped, it is kept.
    let job = client.add(JobSpec::new("t", bad)).await.expect("add");
    assert_eq!(job.payload.decode::<String>().expect("text"), bad);
    // An error may hold anything: it is cleaned rather than lost.
    client.discard(&[job.id], bad).await.expect("discard");
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test]
async fn a_schema_of_any_name_works_or_is_refused() {
    let (pool, _) = database().await;
    for text in hostile() {
        match BackfillClient::with_pool_and_schema(pool.clone(), &text).await {
            Ok(client) => {
                client.add(JobSpec::new("t", ())).await.unwrap_or_else(|error| panic!("{text:?}: {error}"));
                assert_eq!(count(&pool, &text).await, "1", "{text:?}");
            }
            Err(Error::InvalidSchemaName { .. }) => assert!(text.len() > 63, "{text:?}"),
            Err(error) => panic!("{text:?}: {error}"),
        }
    }
}

/// A worker that answers what became of the job.
async fn run(client: &BackfillClient, spec: JobSpec) -> Result<(), String> {
    let job = client.add(spec).await.map_err(|error| error.to_string())?;
    let worker = Worker::builder(client.clone()).task(task_fn("t", |_: Value, _ctx: JobContext| async {})).build();
    soon("the run ends", worker.expect("a worker").run_until_idle()).await.expect("run");
    match client.job(job.id).await.expect("job") {
        None => Ok(()),
        Some(job) => Err(job.last_error.unwrap_or_default()),
    }
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test]
async fn payloads_are_big_deep_and_odd() {
    let (client, pool, schema) = client().await;
    let text = |bytes: usize| "x".repeat(bytes - 2);
    run(&client, JobSpec::new("t", text(1024 * 1024))).await.expect("a megabyte");
    run(&client, JobSpec::new("t", text(8 * 1024 * 1024))).await.expect("up to the cap");
    let refused = client.add(JobSpec::new("t", text(8 * 1024 * 1024 + 1))).await.expect_err("above the cap");
    assert!(matches!(refused, Error::PayloadTooLarge { .. }), "{refused}");
    let roomy = client.clone().with_max_payload_bytes(64 * 1024 * 1024).expect("a cap");
    run(&roomy, JobSpec::new("t", text(50 * 1024 * 1024))).await.expect("fifty megabytes");
    assert!(client.clone().with_max_payload_bytes(1 << 40).is_err());
    assert_eq!(count(&pool, &schema).await, "0");

    // What a decoder cannot take is a failed attempt, and says why.
    let raw = |json: &str| JobSpec::with_payload("t", Payload::from_json(json).expect("JSON"));
    let deep = "[".repeat(10_000) + &"]".repeat(10_000);
    let error = run(&client, raw(&deep)).await.expect_err("too deep to decode");
    assert!(error.contains("recursion limit"), "{error}");
    let error = run(&client, raw("1e400")).await.expect_err("no number of ours");
    assert!(error.contains("number out of range"), "{error}");
    for kept in ["123456789012345678901234567890", "-0", "\"\\ud800\"", "{\"a\":1,\"a\":2}", " [1 , 2] "] {
        let job = client.add(raw(kept)).await.unwrap_or_else(|error| panic!("{kept}: {error}"));
        assert_eq!(client.job(job.id).await.expect("job").expect("there").payload.as_str(), kept);
    }
    for broken in ["", "{", "[1,]", "nul", "'a'", "{\"a\"}", "\u{0}", "01", "1 2"] {
        assert!(Payload::from_json(broken).is_err(), "{broken:?}");
    }
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test]
async fn rows_that_others_wrote_are_read_whatever_is_in_them() {
    let (client, pool, schema) = client().await;
    // Through SQL, as any program may.
    for payload in ["1e400", &("[".repeat(2_000) + &"]".repeat(2_000)), "\"\\ud800\"", "null", " { } "] {
        support::sql(&pool, &schema, &format!("select S.add_job('t', '{payload}'::json)")).await;
    }
    assert_eq!(client.jobs(&JobFilter::new()).await.expect("jobs").len(), 5);
    let worker = Worker::builder(client.clone()).task(task_fn("t", |_: serde::de::IgnoredAny, _: JobContext| async {}));
    worker.build().expect("a worker").run_until_idle().await.expect("run");
    until("all have been tried", || async {
        ask(&pool, &schema, "select count(*) from S._private_jobs where attempts = 0 or locked_at is not null").await
            == "0"
    })
    .await;
}

/// How long each fuzzer runs: a moment, or as many seconds as `BACKFILL_FUZZ_SECONDS` says.
fn fuzz<S: Strategy>(strategy: &S, test: impl Fn(S::Value)) {
    let seconds = std::env::var("BACKFILL_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok());
    let end = std::time::Instant::now() + Duration::from_secs(seconds.unwrap_or(0));
    loop {
        let mut runner = TestRunner::new(Config { cases: 2_000, failure_persistence: None, ..Config::default() });
        let ran = runner.run(strategy, |value| {
            test(value);
            Ok(())
        });
        ran.unwrap_or_else(|error| panic!("{error}"));
        if std::time::Instant::now() >= end {
            return;
        }
    }
}

#[test]
fn no_crontab_crashes_the_parser_or_the_schedule() {
    let words = prop::sample::select(vec![
        "*",
        "*/5",
        "0",
        "59",
        "60",
        "1-5",
        "5-1",
        "1-5/2",
        "*/0",
        ",",
        "MON",
        "@daily",
        "@reboot",
        "?fill=1d",
        "?max=0",
        "?tz=UTC",
        "{a:1}",
        "{",
        "'",
        "\"",
        "\\",
        "# dialect: extended",
        "task",
        "t/k:x",
        "\n",
        "\r\n",
        "\t",
        "\u{feff}",
        "99999999999999999999",
        "?id=a&id=b",
        "?jobKey=\u{1f980}",
        "-",
        "/",
        "L",
        "W",
        "_",
    ]);
    let texts = prop_oneof![
        ".{0,80}".prop_map(String::from),
        prop::collection::vec(words, 0..14).prop_map(|words| words.join(" ")),
        prop::collection::vec(any::<char>(), 0..40).prop_map(|chars| chars.into_iter().collect()),
    ];
    let now = chrono::Utc::now();
    fuzz(&texts, |text| {
        for dialect in [Dialect::Graphile, Dialect::Extended] {
            match Crontab::parse(&text, dialect) {
                Ok(crontab) => crontab.entries().iter().for_each(|entry| {
                    let _ = entry.schedule.next_after(now);
                }),
                Err(Error::InvalidCrontab(problems)) => {
                    assert!(!problems.is_empty());
                    for problem in problems {
                        assert!(problem.line >= 1 && problem.column >= 1, "{problem}");
                    }
                }
                Err(other) => panic!("{other}"),
            }
        }
    });
}

#[test]
fn no_payload_crashes_the_decoder() {
    let texts = prop_oneof![".{0,80}", "[\\[\\]{}\":,0-9eE+.\\\\u-]{0,60}", "(\\[|\\{\"a\":){0,300}"];
    fuzz(&texts, |text| {
        if let Ok(payload) = Payload::from_json(text.clone()) {
            assert_eq!(payload.as_str(), text, "kept byte for byte");
            // It may be refused, but not crash.
            let _ = payload.decode::<Value>();
            let _ = payload.decode::<Option<Nested>>();
        }
    });
}

#[derive(serde::Deserialize)]
struct Nested {
    #[expect(dead_code, reason = "only decoded")]
    a: Option<Box<Nested>>,
}
