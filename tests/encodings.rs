//! Databases that are not in UTF-8, and rows that cannot be read as text.

mod support;

use std::sync::Arc;
use std::time::Duration;

use backfill::error::FailureKind;
use backfill::storage::contract::{adding, claiming, cron, managing, settling};
use backfill::storage::{
    ClaimRef, ClaimRequest, ClaimedJob, Cleanup, JobFilter, Outcome, Registration, Settlement, Watch, WorkerId,
};
use backfill::{BackfillClient, Error, JobContext, JobSpec, Worker, task_fn};
use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, PgPool};
use support::{ask, server_url, unique, url_of};

/// A database of one's own in this encoding.
async fn database_in(encoding: &str) -> PgPool {
    let name = unique("db");
    let server = PgPoolOptions::new().max_connections(1).connect(&server_url()).await.expect("the test server");
    let create = format!("create database {name} template template0 encoding '{encoding}' lc_collate 'C' lc_ctype 'C'");
    sqlx::raw_sql(AssertSqlSafe(create)).execute(&server).await.expect("create database");
    server.close().await;
    PgPoolOptions::new().max_connections(20).connect(&url_of(&name)).await.expect("the new database")
}

/// A schema of one's own there.
async fn schema_in(pool: &PgPool) -> (BackfillClient, String) {
    let schema = unique("s");
    (BackfillClient::with_pool_and_schema(pool.clone(), &schema).await.expect("migrate"), schema)
}

/// Runs cases of the contract, each in a schema of its own.
macro_rules! cases {
    ($pool:expr, $($module:ident [$($case:ident)*])*) => {
        $($({
            println!(concat!(stringify!($module), "::", stringify!($case)));
            let storage = schema_in($pool).await.0.storage().consumer();
            $module::$case(storage).await;
        })*)*
    };
}

/// What a job is added with, claimed and settled by, in a database of this encoding.
async fn works_in(encoding: &str) {
    let pool = database_in(encoding).await;
    cases!(&pool,
        adding [answers_are_paired_with_their_inputs defaults_are_graphiles replace_updates_a_waiting_job_entirely
            preserve_run_at_keeps_the_time_of_an_untried_job_only unsafe_dedupe_keeps_whatever_is_there
            replacing_a_running_job_leaves_it_keyless_and_without_retry replacing_a_dead_job_adds_a_new_one
            array_payloads_are_joined concurrent_adds_under_one_key_leave_one_job]
        claiming [order_is_priority_then_time only_ready_jobs_of_known_tasks_up_to_the_limit
            last_attempts_are_taken_for_free_slots_only a_claim_takes_about_as_many_bytes_as_it_may
            each_job_is_claimed_by_exactly_one_of_many_claimers a_serial_queue_gives_one_job_at_a_time
            a_job_is_handed_off_or_claimed_and_never_both adding_wakes_a_listener forbidden_flags_are_left_alone
            limits_of_tasks_hold_and_leave_room_for_others a_claim_whose_answer_was_lost_is_released]
        cron [an_identifier_gets_one_job_per_moment_and_never_goes_back]
        settling [completed_jobs_are_gone failed_jobs_wait_as_told dead_jobs_stay_dead
            snoozed_and_returned_jobs_get_their_attempt_back a_replaced_job_is_never_revived
            settling_twice_is_settling_once error_texts_never_break_the_write items_that_are_left_become_the_payload]
        managing [remove_deletes_waiting_jobs_and_takes_the_key_of_running_ones reschedule_sets_zero_and_revives
            jobs_are_listed_and_counted_by_state]
    );
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_are_added_claimed_and_settled_in_latin1() {
    works_in("LATIN1").await;
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_are_added_claimed_and_settled_in_win1252() {
    works_in("WIN1252").await;
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_are_added_claimed_and_settled_in_koi8r() {
    works_in("KOI8R").await;
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_are_added_claimed_and_settled_in_euc_jp() {
    works_in("EUC_JP").await;
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_are_added_claimed_and_settled_in_sql_ascii() {
    works_in("SQL_ASCII").await;
}

/// Every statement and script has to be readable in every encoding: servers refuse one even for a character in a comment.
#[test]
fn all_sql_is_ascii() {
    let mut texts = 0;
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut directories: Vec<_> = [".sqlx", "sql", "crates/backfill-sqlite/.sqlx", "crates/backfill-sqlite/sql"]
        .map(|name| root.join(name))
        .into();
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            let text = match path.extension().and_then(std::ffi::OsStr::to_str) {
                None if path.is_dir() => {
                    directories.push(path);
                    continue;
                }
                Some("sql") => std::fs::read_to_string(&path).expect("text"),
                Some("json") => {
                    let data = std::fs::read_to_string(&path).expect("text");
                    let data: serde_json::Value = serde_json::from_str(&data).expect("JSON");
                    data["query"].as_str().expect("a query").to_owned()
                }
                _ => continue,
            };
            texts += 1;
            let odd = text.lines().find(|line| !line.is_ascii());
            assert!(odd.is_none(), "{}: {odd:?}", path.display());
        }
    }
    assert!(texts > 100, "{texts}");
}

/// A job that is claimed, of a worker that holds it.
async fn claimed(client: &BackfillClient) -> (Arc<WorkerId>, ClaimedJob) {
    client.add(JobSpec::new("t", ())).await.expect("add");
    let worker = Arc::new(WorkerId::random());
    assert!(client.storage().consumer().register(&Registration::new(&worker, &[])).await.expect("register"));
    let request = ["t".to_owned()];
    let mut jobs =
        client.storage().consumer().claim(&ClaimRequest::new(&worker, &request, 1)).await.expect("claim").jobs;
    (worker, jobs.remove(0))
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_text_keeps_all_but_the_characters_that_the_encoding_lacks() {
    let text = "caf\u{e9} \u{20ac}5 \u{1f980} \u{65e5}\u{672c}\0";
    for (encoding, stored) in [
        ("LATIN1", "caf\u{e9} ?5 ? ???"),
        ("WIN1252", "caf\u{e9} \u{20ac}5 ? ???"),
        ("EUC_JP", "caf\u{e9} ?5 ? \u{65e5}\u{672c}?"),
        ("UTF8", "caf\u{e9} \u{20ac}5 \u{1f980} \u{65e5}\u{672c}\u{fffd}"),
    ] {
        let (client, _) = schema_in(&database_in(encoding).await).await;
        let storage = client.storage().consumer();
        for outcome in [Outcome::failed(text.to_owned(), Duration::from_secs(60)), Outcome::dead(text.to_owned())] {
            let (worker, job) = claimed(&client).await;
            let settlement = Settlement::new(ClaimRef::of(&job), outcome);
            // Beside one that is done, which must not suffer for it.
            let (_, done) = (&worker, client.add(JobSpec::new("t", ())).await.expect("add"));
            let written = storage.settle(&worker, &[settlement]).await.expect("settle");
            assert_eq!(written.applied, [job.id], "{encoding}");
            let read =
                storage.require_inspect().expect("inspect").job(job.id).await.expect("read").expect("it is there");
            assert_eq!(read.last_error.as_deref(), Some(stored), "{encoding}");
            client.complete(&[done.id]).await.expect("complete");
        }
        let waiting = client.add(JobSpec::new("t", ())).await.expect("add");
        let failed = client.discard(&[waiting.id], text).await.expect("discard");
        assert_eq!(failed[0].last_error.as_deref(), Some(stored), "{encoding}");
        let run = WorkerId::random();
        assert!(storage.register(&Registration::new(&run, &[])).await.expect("register"));
        let mut moved = waiting.clone();
        moved.last_error = Some(text.replace('\0', "\u{fffd}"));
        assert_eq!(
            storage.require_transfer().expect("transfer").import(&run, "move-1", &[moved]).await.expect("import"),
            [waiting.id]
        );
        let errors: Vec<_> =
            client.jobs(&JobFilter::new()).await.expect("jobs").into_iter().map(|job| job.last_error).collect();
        assert_eq!(errors.iter().filter(|error| error.as_deref() == Some(stored)).count(), errors.len(), "{encoding}");
    }
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_encoding_lacks_is_refused_at_the_add_and_harms_nothing_else() {
    let pool = database_in("LATIN1").await;
    let (client, schema) = schema_in(&pool).await;
    client.add(JobSpec::new("t", "caf\u{e9}")).await.expect("its name is known");
    let euro = "\u{20ac}";
    let specs = || {
        [
            JobSpec::new("t", euro),
            JobSpec::new(euro, ()),
            JobSpec::new("t", ()).key(euro),
            JobSpec::new("t", ()).serial_queue(euro),
            JobSpec::new("t", ()).flag(euro),
        ]
    };
    for (alone, spec) in specs().into_iter().zip(specs()) {
        let error = client.add(alone).await.expect_err("refused");
        assert!(
            matches!(error, Error::Storage { kind: FailureKind::Refused, .. })
                && !error.is_transient()
                && error.is_refusal(),
            "{error:?}"
        );
        let told = error.to_string();
        assert!(told.contains("LATIN1") && told.contains("0xe2 0x82 0xac"), "{told}");
        client.add_many([JobSpec::new("t", ()), spec]).await.expect_err("refused");
    }
    assert_eq!(ask(&pool, &schema, "select count(*) from S._private_jobs").await, "1");
    // Those who meet it are not told of it.
    let meeting: Vec<_> = (0..40)
        .map(|n| {
            let client = client.clone();
            let payload = if n % 8 == 0 { euro.to_owned() } else { n.to_string() };
            tokio::spawn(async move { client.add(JobSpec::new("t", payload)).await.is_ok() })
        })
        .collect();
    let mut stored = 0;
    for added in meeting {
        stored += u32::from(added.await.expect("no panic"));
    }
    assert_eq!(stored, 35);
}

/// A database that checks nothing, with rows whose bytes are no UTF-8 among rows that can be read, and times of the end of days.
async fn with_damaged_rows() -> (BackfillClient, PgPool, String) {
    let pool = database_in("SQL_ASCII").await;
    let (client, schema) = schema_in(&pool).await;
    for n in 1..=6 {
        client.add(JobSpec::new("t", n).key(format!("k{n}"))).await.expect("add");
    }
    let damage = "
        update S._private_jobs set payload = convert_from('\\x22e922', 'SQL_ASCII')::json where id = 1;
        update S._private_jobs set key = convert_from('\\xe9', 'SQL_ASCII') where id = 2;
        update S._private_jobs set last_error = convert_from('\\xe9', 'SQL_ASCII'), attempts = 1 where id = 3;
        update S._private_jobs set flags = convert_from('\\x7b22e9223a747275657d', 'SQL_ASCII')::jsonb where id = 4;
        update S._private_jobs set run_at = '-infinity', created_at = '4713-01-01 BC', updated_at = 'infinity' where id = 5;
        insert into S._private_job_queues (queue_name) values (convert_from('\\xe9', 'SQL_ASCII'));
        insert into S._private_tasks (identifier) values (convert_from('\\xe9', 'SQL_ASCII'));
        insert into S._private_known_crontabs (identifier, known_since) values (convert_from('\\xe9', 'SQL_ASCII'), 'infinity');
        insert into S._private_jobs (task_id, payload) select id, '1' from S._private_tasks where identifier <> 't'";
    support::sql(&pool, &schema, damage).await;
    (client, pool, schema)
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_are_no_text_are_listed_with_all_others_and_found_by_the_doctor() {
    let (client, ..) = with_damaged_rows().await;
    let jobs = client.jobs(&JobFilter::new()).await.expect("jobs");
    assert_eq!(jobs.len(), 7);
    let job = |id: i64| jobs.iter().find(|job| job.id.number() == id).expect("it is there");
    assert_eq!(job(1).payload.as_str(), "\"\u{fffd}\"");
    assert!(job(1).payload.is_damaged() && job(1).payload.decode::<String>().is_err());
    assert_eq!(job(2).key.as_deref(), Some("\u{fffd}"));
    assert_eq!(job(3).last_error.as_deref(), Some("\u{fffd}"));
    assert_eq!(job(4).flags, ["\u{fffd}"]);
    assert_eq!(job(7).task, "\u{fffd}");
    assert!(!job(6).payload.is_damaged());
    assert!(client.queues().await.expect("queues").iter().any(|queue| queue.name == "\u{fffd}"));
    assert!(client.tasks().await.expect("tasks").iter().any(|task| task.name == "\u{fffd}"));
    assert_eq!(client.crontabs().await.expect("crontabs")[0].identifier, "\u{fffd}");
    assert_eq!(client.counts().await.expect("counts").total(), 7);
    let found = client.storage().doctor().expect("doctor").diagnose().await;
    let found: Vec<_> = found.iter().filter(|check| format!("{check:?}").contains("4 jobs hold bytes")).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    // To move it would change it.
    let error = client
        .storage()
        .require_transfer()
        .expect("transfer")
        .reserve("move-1", None, 100, u64::MAX)
        .await
        .expect_err("not as it is");
    assert!(error.to_string().contains("the payload of job 1 is not valid UTF-8"), "{error}");
}

/// The cause of each job that failed.
async fn run_all(client: &BackfillClient) -> Vec<(i64, Option<String>)> {
    let handler = task_fn("t", |_: serde_json::Value, _: JobContext| async {});
    let worker = Worker::builder(client.clone()).task(handler).handle_signals(false).build().expect("worker");
    support::soon("all are tried", worker.run_until_idle()).await.expect("run");
    let mut left = client.jobs(&JobFilter::new().task("t")).await.expect("jobs");
    left.sort_by_key(|job| job.id);
    left.into_iter().map(|job| (job.id.number(), job.last_error)).collect()
}

const DAMAGED: &str = "the payload is not valid UTF-8, so the task was not started; repair or delete the row";

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_are_no_text_stop_no_claims_and_fail_by_themselves() {
    let (client, ..) = with_damaged_rows().await;
    assert_eq!(run_all(&client).await, [(1, Some(DAMAGED.to_owned()))]);
}

/// Each worker is rescued with its jobs, whatever its id is.
async fn rescues_all(client: &BackfillClient) {
    let silence = Duration::from_millis(50);
    let storage = client.storage().consumer();
    let rescued = storage.rescue(&Watch::new(silence).contact(silence)).await.expect("rescue");
    let mut rescued: Vec<_> = rescued.into_iter().map(|rescued| (rescued.worker, rescued.jobs)).collect();
    rescued.sort();
    assert_eq!(rescued, [("dead".to_owned(), 1), ("\u{fffd}".to_owned(), 1)]);
    assert_eq!(client.counts().await.expect("counts").running, 1, "of a worker that nobody knows");
    let errors = client.jobs(&JobFilter::new()).await.expect("jobs").into_iter().filter_map(|job| job.last_error);
    assert_eq!(errors.filter(|error| error.contains("stopped sending heartbeats")).count(), 2);
}

/// All that people ask is answered, with replacement characters.
async fn is_told(client: &BackfillClient) {
    let damaged = "\u{fffd}";
    let workers = client.workers().await.expect("workers");
    assert_eq!(workers.iter().filter(|worker| worker.id.contains(damaged)).count(), 2, "{workers:?}");
    let queues = client.queues().await.expect("queues");
    assert!(queues.iter().any(|queue| queue.name == damaged && queue.locked_by.as_deref() == Some(damaged)));
    assert!(client.tasks().await.expect("tasks").iter().any(|task| task.name == damaged));
    assert!(
        client
            .storage()
            .require_inspect()
            .expect("inspect")
            .task_names()
            .await
            .expect("names")
            .iter()
            .any(|name| name == damaged)
    );
    assert_eq!(client.crontabs().await.expect("crontabs")[0].identifier, damaged);
    client.storage().require_inspect().expect("inspect").serving().await.expect("serving");
    for check in client.storage().doctor().expect("doctor").diagnose().await {
        let told = format!("{check:?}");
        assert!(!told.contains("invalid byte sequence") && !told.contains("utf-8 sequence"), "{told}");
    }
    client.cleanup(&Cleanup::new().tasks(["t"]).queues()).await.expect("cleanup");
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_and_holders_that_are_no_text_hold_up_nobody() {
    let pool = database_in("SQL_ASCII").await;
    let (client, schema) = schema_in(&pool).await;
    for n in 1..=4 {
        client.add(JobSpec::new("t", n)).await.expect("add");
    }
    let odd = "convert_from('\\xe9', 'SQL_ASCII')";
    let damage = format!(
        "insert into S.backfill_pools (id, seen_at, serves, handover, tasks) values
           ({odd}, '2020-01-01', array[{odd}], {odd}, array[{odd}]), ('dead', '2020-01-01', null, null, null);
         update S._private_jobs set locked_at = now(), locked_by = {odd} where id = 1;
         update S._private_jobs set locked_at = now(), locked_by = 'dead' where id = 2;
         update S._private_jobs set locked_at = now() - interval '5 hours', locked_by = {odd} || 'x' where id = 3;
         insert into S._private_job_queues (queue_name, locked_at, locked_by) values ({odd}, now(), {odd});
         insert into S._private_tasks (identifier) values ({odd});
         insert into S._private_known_crontabs (identifier, known_since, last_execution)
           values ({odd}, now(), now() + interval '1 day')"
    );
    support::sql(&pool, &schema, &damage).await;
    is_told(&client).await;
    rescues_all(&client).await;
    // Nobody has to be able to read a worker to whom jobs could be handed off.
    let damage = format!("insert into S.backfill_pools (id, handover, tasks) values ({odd}, 'c', array['t'])");
    support::sql(&pool, &schema, &damage).await;
    let ran = Arc::new(tokio::sync::Notify::new());
    let handler = {
        let ran = Arc::clone(&ran);
        task_fn("handed_off", move |_: serde_json::Value, _: JobContext| {
            let ran = Arc::clone(&ran);
            async move { ran.notify_one() }
        })
    };
    let worker = Worker::builder(client.clone()).task(handler).handle_signals(false).build().expect("worker");
    let handle = worker.shutdown_handle();
    let worker = tokio::spawn(async move { worker.run().await });
    let handed_off = async {
        loop {
            let added = client.add(JobSpec::new("handed_off", ())).await.expect("add");
            ran.notified().await;
            if added.locked_by.is_some() {
                break;
            }
        }
    };
    support::soon("a job is handed off", handed_off).await;
    handle.shutdown();
    worker.await.expect("no panic").expect("run");
}

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
