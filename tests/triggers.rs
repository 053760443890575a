//! Triggers of the user's on the jobs table: what they make of a job is what is told, and what holds.

mod support;

use std::sync::Arc;

use backfill::storage::{JobFilter, Registration};
use backfill::worker::Event;
use backfill::{BackfillClient, Error, Job, JobContext, JobKeyMode, JobSpec, Queue, Worker, task_fn};
use chrono::{TimeDelta, Utc};
use futures::StreamExt;
use sqlx::PgPool;
use support::running::{Running, empty};
use support::{ask, client, soon, sql, until};

/// Puts a trigger on the jobs table that does this with `new`.
async fn trigger(pool: &PgPool, schema: &str, body: &str) {
    let text = format!(
        "create or replace function S.t() returns trigger language plpgsql as $$ begin {body} end $$;
         drop trigger if exists t on S._private_jobs;
         create trigger t before insert on S._private_jobs for each row execute function S.t()"
    );
    sql(pool, schema, &text).await;
}

/// Every way to add jobs: a name, and what was answered.
async fn add_in_every_way(client: &BackfillClient) -> Vec<(&'static str, backfill::Result<Vec<Job>>)> {
    let plain = |n: i32| JobSpec::new("t", n);
    let keyed = |n: i32| JobSpec::new("t", n).key(format!("k{n}"));
    let mut ways = Vec::new();
    let one = |added: backfill::Result<Job>| added.map(|job| vec![job]);
    ways.push(("one of a new task", one(client.add(JobSpec::new("new", 1)).await)));
    ways.push(("one", one(client.add(plain(2)).await)));
    ways.push(("one in a queue", one(client.add(plain(3).queue(Queue::serial("q"))).await)));
    ways.push((
        "one with flags and a time",
        one(client.add(plain(4).flag("f").run_at(Utc::now() + TimeDelta::hours(1))).await),
    ));
    for (name, mode, n) in [
        ("one with a key", JobKeyMode::Replace, 5),
        ("one with a key that keeps its time", JobKeyMode::PreserveRunAt, 6),
        ("one with a key that is taken once", JobKeyMode::UnsafeDedupe, 7),
    ] {
        ways.push((name, one(client.add(keyed(n).key_mode(mode)).await)));
        ways.push((name, one(client.add(keyed(n).key_mode(mode)).await)));
    }
    ways.push(("a batch", client.add_many((10..15).map(plain)).await));
    ways.push((
        "a batch in queues",
        client.add_many((15..20).map(|n| plain(n).queue(Queue::serial(format!("q{n}"))))).await,
    ));
    ways.push(("a batch with keys", client.add_many((20..25).map(keyed)).await));
    ways.push(("a mixed batch", client.add_many((25..30).map(|n| if n % 2 == 0 { plain(n) } else { keyed(n) })).await));
    let mut transaction = client.postgres().expect("PostgreSQL").pool().begin().await.expect("begin");
    ways.push(("one in a transaction", one(client.add(plain(30)).within(&mut *transaction).await)));
    ways.push(("a batch in a transaction", client.add_many((31..34).map(plain)).within(&mut *transaction).await));
    transaction.commit().await.expect("commit");
    let meeting: Vec<_> = (40..72)
        .map(|n| {
            let client = client.clone();
            tokio::spawn(async move { client.add(JobSpec::new("t", n)).await })
        })
        .collect();
    for added in meeting {
        ways.push(("one of many that meet", one(added.await.expect("no panic"))));
    }
    ways
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_a_trigger_changed_is_told_as_it_was_stored() {
    for body in [
        "return new;",
        "new.run_at := '2100-01-01'; return new;",
        "new.flags := '{\"held\":true}'; new.priority := 7; new.max_attempts := 3; return new;",
        "new.payload := '{\"changed\": true}'; return new;",
        "insert into S._private_job_queues (queue_name) values ('other') on conflict do nothing;
         new.job_queue_id := (select id from S._private_job_queues where queue_name = 'other'); return new;",
        "insert into S._private_tasks (identifier) values ('other') on conflict do nothing;
         new.task_id := (select id from S._private_tasks where identifier = 'other'); return new;",
        "new.key := new.key || random(); return new;",
        "new.key := null; return new;",
        "new.key := coalesce(new.key, random()::text); return new;",
        "new.attempts := new.max_attempts; return new;",
        "new.locked_at := now(); new.locked_by := 'somebody'; return new;",
    ] {
        let (client, pool, schema) = client().await;
        trigger(&pool, &schema, &body.replace("S.", &format!("\"{schema}\"."))).await;
        let mut told = Vec::new();
        for (way, added) in add_in_every_way(&client).await {
            for job in added.unwrap_or_else(|error| panic!("{way}, {body}: {error}")) {
                let read = client.job(job.id).await.expect("read").expect("it is there");
                // (What took its key since has changed the earlier one.)
                if read.updated_at == job.updated_at {
                    assert_eq!(job, read, "{way}, {body}");
                }
                told.push(job.id);
            }
        }
        told.sort_unstable();
        told.dedup();
        let mut stored: Vec<_> =
            client.jobs(&JobFilter::new().limit(1_000)).await.expect("jobs").iter().map(|job| job.id).collect();
        stored.sort_unstable();
        assert_eq!(stored, told, "{body}: all that is stored was told");
    }
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_a_trigger_leaves_out_is_an_error_that_says_so() {
    let (client, pool, schema) = client().await;
    trigger(&pool, &schema, "return null;").await;
    for (way, added) in add_in_every_way(&client).await {
        let error = added.expect_err(way);
        assert!(matches!(error, Error::LeftOut { .. }) && !error.is_transient(), "{way}: {error:?}");
        assert!(error.to_string().contains("a trigger on the jobs table left"), "{error}");
    }
    assert_eq!(ask(&pool, &schema, "select count(*) from S._private_jobs").await, "0");

    // Of a batch all or none; and others are not told of it.
    trigger(&pool, &schema, "if new.payload::text = '13' then return null; end if; return new;").await;
    let specs = |key: bool| {
        (10..20).map(move |n| if key { JobSpec::new("t", n).key(format!("k{n}")) } else { JobSpec::new("t", n) })
    };
    for keyed in [false, true] {
        let error = client.add_many(specs(keyed)).await.expect_err("one is left out");
        assert!(matches!(&error, Error::LeftOut { jobs: 1, of: 10, task } if task == "t"), "{error:?}");
    }
    assert_eq!(ask(&pool, &schema, "select count(*) from S._private_jobs").await, "0");
    let meeting: Vec<_> = specs(false)
        .map(|spec| {
            let client = client.clone();
            tokio::spawn(async move { client.add(spec).await })
        })
        .collect();
    let mut left_out = 0;
    for added in meeting {
        match added.await.expect("no panic") {
            Ok(_) => {}
            Err(Error::LeftOut { jobs: 1, of: 1, .. }) => left_out += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(left_out, 1);
    assert_eq!(ask(&pool, &schema, "select count(*) from S._private_jobs").await, "9");

    // A job whose key would have been taken keeps it.
    trigger(&pool, &schema, "return new;").await;
    let running = client.add(JobSpec::new("t", 1).key("k")).await.expect("add");
    sql(&pool, &schema, "update S._private_jobs set locked_at = now(), locked_by = 'w', attempts = 1 where key = 'k'")
        .await;
    trigger(&pool, &schema, "return null;").await;
    client.add(JobSpec::new("t", 2).key("k")).await.expect_err("left out");
    let read = client.job(running.id).await.expect("read").expect("it is there");
    assert_eq!((read.key.as_deref(), read.attempts), (Some("k"), 1));
}

/// What each job of the task `t` was given when it started.
fn recording(client: &BackfillClient) -> (Worker, Arc<std::sync::Mutex<Vec<Job>>>) {
    let started = Arc::new(std::sync::Mutex::new(Vec::new()));
    let record = Arc::clone(&started);
    let handler = task_fn("t", move |(): (), context: JobContext| {
        record.lock().expect("no panic").push(context.job().clone());
        async {}
    });
    let builder = Worker::builder(client.clone()).task(handler).forbidden_flags(["forbidden"]);
    (builder.event_capacity(100_000).handle_signals(false).build().expect("a worker"), started)
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_worker_starts_no_job_that_a_trigger_has_deferred_forbidden_or_put_into_a_queue() {
    for body in [
        "new.run_at := now() + interval '1 hour'; return new;",
        "new.flags := '{\"forbidden\":true}'; return new;",
        "insert into S._private_job_queues (queue_name, locked_at, locked_by) values ('held', now(), 'somebody') on conflict do nothing;
         new.job_queue_id := (select id from S._private_job_queues where queue_name = 'held'); return new;",
    ] {
        let (client, pool, schema) = client().await;
        let (worker, started) = recording(&client);
        let mut events = Box::pin(worker.events());
        let running = Running::of(worker);
        soon("it listens", async { while !matches!(events.next().await, Some(Event::Listening)) {} }).await;
        soon("a job is handed off", async {
            while client.add(JobSpec::new("t", ())).await.expect("add").locked_by.is_none() {}
        })
        .await;
        empty(&client).await;
        let before = started.lock().expect("no panic").len();
        trigger(&pool, &schema, &body.replace("S.", &format!("\"{schema}\"."))).await;
        for _ in 0..20 {
            let added = client.add(JobSpec::new("t", ())).await.expect("add");
            assert_eq!((added.locked_by, added.attempts), (None, 0), "{body}");
        }
        // What was there first is handed off and run; then the others had their chance.
        sql(&pool, &schema, "drop trigger t on S._private_jobs").await;
        client.add(JobSpec::new("t", ())).await.expect("add");
        until("the last one has run", || async { client.counts().await.expect("counts").total() == 20 }).await;
        assert_eq!(started.lock().expect("no panic").len(), before + 1, "{body}");
        running.end().await;
    }
}

/// Whoever stored it: another version of this crate, or a trigger that came at that moment.
#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_is_handed_off_with_a_queue_flags_or_a_time_is_released_and_claimed() {
    let (client, pool, schema) = client().await;
    let (worker, started) = recording(&client);
    let mut events = Box::pin(worker.events());
    let running = Running::of(worker);
    soon("it listens", async { while !matches!(events.next().await, Some(Event::Listening)) {} }).await;
    until("it offers", || async { !ask(&pool, &schema, "select handover from S.backfill_pools").await.is_empty() })
        .await;
    client.add(JobSpec::new("t", ())).await.expect("the task has a name");
    sql(
        &pool,
        &schema,
        "insert into S._private_job_queues (queue_name, locked_at, locked_by) values ('held', now(), 'somebody')",
    )
    .await;
    empty(&client).await;
    let before = started.lock().expect("no panic").len();
    for (columns, values) in [
        ("run_at", "now() + interval '1 hour'"),
        ("flags", "'{\"forbidden\":true}'::jsonb"),
        ("job_queue_id", "(select id from S._private_job_queues where queue_name = 'held')"),
    ] {
        let hand = format!(
            "with job as (
               insert into S._private_jobs (task_id, payload, attempts, locked_at, locked_by, {columns})
               select task.id, 'null', 1, now(), pool.id, {values} from S._private_tasks task, S.backfill_pools pool
               returning id
             )
             select pg_notify((select handover from S.backfill_pools), job.id::text) from job"
        );
        sql(&pool, &schema, &hand).await;
        until("it is released", || async {
            ask(&pool, &schema, "select count(*) from S._private_jobs where locked_at is not null").await == "0"
        })
        .await;
        let stored = ask(&pool, &schema, "select attempts from S._private_jobs order by id desc limit 1").await;
        assert_eq!(stored, "0", "{columns}: the attempt is given back too");
    }
    assert_eq!(started.lock().expect("no panic").len(), before);
    running.end().await;
}

/// A file of one's own, with a trigger of the user's on its jobs, and a door of the test's own to it.
async fn file_with(trigger: &str) -> (tempfile::TempDir, BackfillClient, sqlx::SqlitePool) {
    let directory = tempfile::TempDir::new().expect("a directory");
    let url = format!("sqlite://{}/app.db", directory.path().display());
    let client = BackfillClient::new(&url).await.expect("open");
    let pool = sqlx::SqlitePool::connect(&url).await.expect("open");
    sqlx::raw_sql(sqlx::AssertSqlSafe(trigger.to_owned())).execute(&pool).await.expect("a trigger");
    (directory, client, pool)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_file_a_changed_job_is_told_as_it_was_stored_and_a_row_left_out_is_an_error() {
    let (_directory, client, _) = file_with(
        "create trigger t after insert on backfill_jobs begin
           update backfill_jobs set priority = 7, flags = '[\"f\"]', run_at = 4102444800000000 where id = new.id; end",
    )
    .await;
    let keyed = |n: i32| JobSpec::new("t", n).key(format!("k{n}"));
    let mut told =
        client.add_many((0..5).map(|n| if n % 2 == 0 { keyed(n) } else { JobSpec::new("t", n) })).await.expect("add");
    told.push(client.add(JobSpec::new("t", 6)).await.expect("add"));
    told.push(client.add(keyed(7)).await.expect("add"));
    for job in told {
        assert_eq!((job.priority.0, &job.flags[..]), (7, &["f".to_owned()][..]));
        assert_eq!(client.job(job.id).await.expect("read"), Some(job));
    }

    let (_directory, client, pool) = file_with(
        "create trigger t before insert on backfill_jobs when new.payload = '13' begin select raise(ignore); end;
         create trigger u before insert on backfill_jobs when new.payload = '14' begin select raise(abort, 'unlucky'); end;",
    )
    .await;
    for batch in [(10..14).map(|n| JobSpec::new("t", n)).collect(), vec![keyed(13)], vec![keyed(1), keyed(13)]] {
        let error = client.add_many(batch).await.expect_err("left out");
        assert!(matches!(error, Error::LeftOut { jobs: 1, .. }) && !error.is_transient(), "{error:?}");
    }
    let count = "select count(*) from backfill_jobs";
    assert_eq!(sqlx::query_scalar::<_, i64>(count).fetch_one(&pool).await.expect("count"), 0);
    let meeting: Vec<_> = (0..200)
        .map(|n| {
            let client = client.clone();
            tokio::spawn(async move { (n % 20, client.add(JobSpec::new("t", n % 20)).await) })
        })
        .collect();
    for added in meeting {
        match added.await.expect("no panic") {
            (13, added) => assert!(matches!(added, Err(Error::LeftOut { .. })), "{added:?}"),
            (14, added) => assert!(added.expect_err("refused").to_string().contains("unlucky")),
            (_, added) => drop(added.expect("nobody is told another's error")),
        }
    }
    assert_eq!(sqlx::query_scalar::<_, i64>(count).fetch_one(&pool).await.expect("count"), 180);
}

/// Jobs that no claim can take are told, and looked for no more often than any others.
async fn tells_that_claims_are_left_out(client: &BackfillClient, allow: impl AsyncFnOnce()) {
    client.add_many((0..30).map(|n| JobSpec::new("t", n))).await.expect("add");
    client.add_many((0..3).map(|n| JobSpec::new("t", n).queue(Queue::serial("q")))).await.expect("add");
    let run = async || {
        let handler = task_fn("t", async |_: serde_json::Value, _: JobContext| {});
        let worker = Worker::builder(client.clone()).task(handler).concurrency(5).handle_signals(false);
        let worker = worker.build().expect("a worker");
        let mut events = worker.events();
        let run = async {
            let ended = worker.run_until_idle().await;
            drop(worker);
            ended
        };
        let looks = async {
            let mut looks = 0;
            while let Some(event) = events.next().await {
                looks += u32::from(matches!(event, Event::Claiming { .. }));
            }
            looks
        };
        let (ended, looks) = soon("it ends", async { tokio::join!(run, looks) }).await;
        (ended.expect("run").completed, looks)
    };
    let (done, looks) = run().await;
    assert!(done == 0 && looks < 10, "{done} in {looks} looks");
    assert!(client.queues().await.expect("queues").iter().all(|queue| queue.locked_by.is_none()), "nobody holds it");
    let found = format!("{:?}", client.storage().doctor().expect("a doctor").diagnose().await);
    assert!(found.contains("a trigger keeps 33 of 33 ready jobs from being taken (\\\"t\\\")"), "{found}");
    assert_eq!(client.counts().await.expect("counts").ready, 33, "it has only tried");
    allow().await;
    assert_eq!(run().await.0, 33);
    assert!(
        !format!("{:?}", client.storage().doctor().expect("a doctor").diagnose().await).contains("a trigger keeps")
    );
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_a_trigger_leaves_out_is_told_and_made_again_by_nobody() {
    let (client, pool, schema) = client().await;
    let text = "create function S.t() returns trigger language plpgsql as $$ begin
           if new.locked_by is not null then return null; end if; return new; end $$;
         create trigger t before update on S._private_jobs for each row execute function S.t()";
    sql(&pool, &schema, text).await;
    tells_that_claims_are_left_out(&client, async || sql(&pool, &schema, "drop trigger t on S._private_jobs").await)
        .await;
    let text = "create or replace function S.t() returns trigger language plpgsql as $$ begin return null; end $$;
         create trigger d before delete on S._private_jobs for each row execute function S.t()";
    sql(&pool, &schema, text).await;
    client.add(JobSpec::new("t", 1)).await.expect("add");
    let found = format!("{:?}", client.storage().doctor().expect("a doctor").diagnose().await);
    assert!(found.contains("a trigger keeps 1 of 1 jobs from being deleted when they are done"), "{found}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_file_a_claim_that_a_trigger_leaves_out_is_told_and_made_again_by_nobody() {
    let (_directory, client, pool) = file_with(
        "create trigger t before update on backfill_jobs when new.locked_by is not null begin select raise(ignore); end",
    )
    .await;
    let allow = async || {
        sqlx::raw_sql("drop trigger t").execute(&pool).await.expect("drop");
    };
    tells_that_claims_are_left_out(&client, allow).await;
}

/// What is not there must not be deleted where it came from.
#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_into_a_place_that_leaves_rows_out_says_so_and_brings_nothing() {
    let job = |id: i64| {
        let mut job = Job::new(id, "t", backfill::Payload::empty(), Utc::now());
        job.priority = backfill::Priority(i16::try_from(id).expect("small"));
        job
    };
    let (postgres, pool, schema) = client().await;
    trigger(&pool, &schema, "if new.priority = 2 then return null; end if; return new;").await;
    let (_directory, file, _) = file_with(
        "create trigger t before insert on backfill_jobs when new.priority = 2 begin select raise(ignore); end",
    )
    .await;
    for client in [postgres, file] {
        let storage = client.storage().consumer();
        let run = backfill::storage::WorkerId::random();
        assert!(storage.register(&Registration::new(&run, &[])).await.expect("register"));
        let error = storage
            .require_transfer()
            .expect("transfer")
            .import(&run, "move-1", &[job(1), job(2), job(3)])
            .await
            .expect_err("one is left out");
        assert!(matches!(error, Error::LeftOut { jobs: 1, of: 3, .. }), "{error:?}");
        assert_eq!(client.counts().await.expect("counts").total(), 0);
        assert_eq!(
            storage
                .require_transfer()
                .expect("transfer")
                .import(&run, "move-1", &[job(1), job(3)])
                .await
                .expect("import"),
            [1.into(), 3.into()]
        );
    }
}
