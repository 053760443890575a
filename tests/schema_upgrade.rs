//! From every revision since 10 to revision 20, with data.

mod support;

use backfill::error::Unready;
use backfill::storage::{ClaimRequest, Registration, WorkerId};
use backfill::{BackfillClient, Error, JobFilter, JobState};
use sqlx::PgPool;
use sqlx::postgres::PgListener;
use support::{ask, assert_same_lines, catalog, database, dump, node, soon, sql, until};

/// The jobs of a fleet at work: waiting, keyed, in a queue, retrying, dead, in the future, with flags.
async fn fill(pool: &PgPool, schema: &str, revision: i32) {
    let table = if revision >= 16 { "S._private_jobs" } else { "S.jobs" };
    let crontabs = if revision >= 16 { "S._private_known_crontabs" } else { "S.known_crontabs" };
    sql(
        pool,
        schema,
        &format!(
            r#"
select S.add_job('waiting', '{{"a": 1.50, "b":"x"}}', queue_name := 'q1', priority := (-3)::smallint, flags := array['f1','f2']);
select S.add_job('gone', '{{}}');
select S.add_job('keyed', '[1, 2]', job_key := 'k1', max_attempts := 7::smallint);
select S.add_job('retrying', '{{}}', queue_name := 'q2');
select S.add_job('dead', '{{}}', job_key := 'k2');
select S.add_job('scheduled', '{{}}', run_at := '2100-01-01T00:00:00Z');
select S.add_job('keyed', '[3]', job_key := 'k1', max_attempts := 7::smallint);
delete from {table} where id = (select min(id) + 1 from {table});
update {table} set attempts = 3, last_error = 'why', run_at = now() + interval '1 hour' where id = (select min(id) + 3 from {table});
update {table} set attempts = max_attempts, last_error = 'enough' where id = (select min(id) + 4 from {table});
update {table} set created_at = created_at - interval '2 days';
insert into {crontabs} values ('cron', now() - interval '1 day', now() - interval '1 hour');
"#
        ),
    )
    .await;
}

/// What must survive: everything but ids and the moment of the last change.
async fn contents(client: &BackfillClient) -> Vec<String> {
    let jobs = client.jobs(&JobFilter::new()).await.expect("list");
    jobs.iter()
        .map(|job| {
            format!(
                "{} {:?} {} {} {} {}/{} {:?} {:?} {} {:?} {}",
                job.task,
                job.queue,
                job.payload,
                job.priority,
                job.run_at,
                job.attempts,
                job.max_attempts,
                job.last_error,
                job.key,
                job.revision,
                job.flags,
                job.created_at
            )
        })
        .collect()
}

async fn upgrade_from(revision: i32) {
    let (pool, url) = database().await;
    let schema = "graphile_worker";
    match revision {
        10 => node::migrate("graphile-worker-0.13", &url, schema).await,
        14 => node::migrate("graphile-worker-0.15", &url, schema).await,
        18 => node::migrate("graphile-worker-0.16", &url, schema).await,
        19 => node::migrate("graphile-worker-0.17", &url, schema).await,
        20 => node::migrate("graphile-worker", &url, schema).await,
        _ => node::schema_at(&pool, schema, revision).await,
    }
    fill(&pool, schema, revision).await;
    let (before, key_revision) = if revision == 10 {
        let text = "select string_agg(task_identifier || attempts || coalesce(key, '') , ',' order by id) from S.jobs";
        (ask(&pool, schema, text).await, "1")
    } else {
        (String::new(), "1")
    };
    let mut notices = PgListener::connect_with(&pool).await.expect("listen");
    notices.listen("worker:migrate").await.expect("listen");

    let client = BackfillClient::new(&url).await.expect("migrate");

    let migrated: Vec<String> = {
        sql(&pool, schema, "select pg_notify('worker:migrate', 'end')").await;
        let mut heard = Vec::new();
        loop {
            let text = notices.recv().await.expect("notice").payload().to_owned();
            if text == "end" {
                break heard;
            }
            heard.push(text.replace(' ', ""));
        }
    };
    let expected: Vec<String> = (revision + 1..=20)
        .map(|id| format!(r#"{{"migrationNumber":{id},"breaking":{}}}"#, [1, 3, 11, 13, 14, 16, 19].contains(&id)))
        .collect();
    assert_eq!(migrated, expected, "one notice for each revision");

    let ledger = "select string_agg(id || case when breaking then '!' else '' end, ' ' order by id) from S.migrations";
    assert_eq!(ask(&pool, schema, ledger).await, "1! 2 3! 4 5 6 7 8 9 10 11! 12 13! 14! 15 16! 17 18 19! 20");

    let contents = contents(&client).await;
    let jobs: Vec<&str> = contents.iter().map(|line| line.split(' ').next().expect("a task")).collect();
    assert_eq!(jobs, ["waiting", "keyed", "retrying", "dead", "scheduled"]);
    assert!(contents[0].starts_with(r#"waiting Some("q1") {"a": 1.50, "b":"x"} -3 "#), "{}", contents[0]);
    assert!(contents[0].contains(r#"["f1", "f2"]"#), "{}", contents[0]);
    assert!(contents[1].contains(&format!(r#"0/7 None Some("k1") {key_revision} "#)), "{}", contents[1]);
    assert!(contents[2].contains(r#"3/25 Some("why")"#), "{}", contents[2]);
    assert!(contents[3].contains(r#"25/25 Some("enough") Some("k2")"#), "{}", contents[3]);
    assert!(contents[4].contains("2100-01-01"), "{}", contents[4]);
    assert_eq!(client.jobs(&JobFilter::new().state(JobState::Dead)).await.expect("list").len(), 1);
    let cron = "select identifier || ' ' || (last_execution - known_since) from S._private_known_crontabs";
    assert_eq!(ask(&pool, schema, cron).await, "cron 23:00:00");
    if revision == 10 {
        assert_eq!(before, "waiting0,keyed0k1,retrying3,dead25k2,scheduled0");
        assert_eq!(
            ask(&pool, schema, "select string_agg(id::text, ',' order by id) from S._private_jobs").await,
            "1,2,3,4,5"
        );
    }

    let (fresh, fresh_url) = database().await;
    node::migrate("graphile-worker", &fresh_url, schema).await;
    let (ours, theirs) = (catalog(&pool, schema).await, catalog(&fresh, schema).await);
    assert_same_lines(&ours.join("\n"), &theirs.join("\n"));
    if let Some(theirs) = dump(&fresh_url, schema).await {
        assert_same_lines(&dump(&url, schema).await.expect("the same pg_dump"), &theirs);
    }
    client.add(backfill::JobSpec::new("after", 1).key("k1").serial_queue("q1")).await.expect("add");
}

macro_rules! upgrades {
    ($($name:ident $revision:literal)*) => {
        $(#[tokio::test] async fn $name() { upgrade_from($revision).await; })*
    };
}

upgrades! {
    revision_10_is_upgraded_with_its_data 10
    revision_11_is_upgraded_with_its_data 11
    revision_12_is_upgraded_with_its_data 12
    revision_13_is_upgraded_with_its_data 13
    revision_14_is_upgraded_with_its_data 14
    revision_15_is_upgraded_with_its_data 15
    revision_16_is_upgraded_with_its_data 16
    revision_17_is_upgraded_with_its_data 17
    revision_18_is_upgraded_with_its_data 18
    revision_19_is_upgraded_with_its_data 19
    revision_20_is_kept_with_its_data 20
}

#[tokio::test]
async fn running_jobs_at_revision_10_are_an_error_and_stale_locks_are_not() {
    let (pool, url) = database().await;
    node::migrate("graphile-worker-0.13", &url, "graphile_worker").await;
    let schema = "graphile_worker";
    sql(&pool, schema, "select S.add_job('t', queue_name := 'q'); select S.get_job('worker-1234567890')").await;
    let error = BackfillClient::new(&url).await.expect_err("a job is running");
    assert!(
        matches!(error, Error::NotReady { reason: Unready::JobsRunning { jobs: 2 }, .. }),
        "the job and its queue: {error}"
    );
    assert_eq!(ask(&pool, schema, "select max(id) from S.migrations").await, "10");
    sql(&pool, schema, "update S.jobs set locked_at = locked_at - interval '5 hours'").await;
    sql(&pool, schema, "update S.job_queues set locked_at = locked_at - interval '5 hours'").await;
    let client = BackfillClient::new(&url).await.expect("stale locks are no locks");
    let job = client.job(1).await.expect("read").expect("the job");
    assert_eq!((job.attempts, job.locked_by), (1, None));
}

#[tokio::test]
async fn numbers_that_do_not_fit_stop_the_migration_and_change_nothing() {
    let (pool, _) = database().await;
    node::schema_at(&pool, "s", 10).await;
    sql(&pool, "s", "select S.add_job('t', priority := 40000)").await;
    let error = BackfillClient::with_pool_and_schema(pool.clone(), "s").await.expect_err("40000 is no smallint");
    assert!(error.to_string().contains("smallint out of range"), "{error}");
    assert_eq!(ask(&pool, "s", "select max(id) from S.migrations").await, "10");
    assert_eq!(ask(&pool, "s", "select priority from S.jobs").await, "40000");
}

#[tokio::test]
async fn a_users_own_trigger_and_view_survive_an_upgrade() {
    let (pool, _) = database().await;
    node::schema_at(&pool, "s", 17).await;
    sql(
        &pool,
        "s",
        "create function public.mine() returns trigger language plpgsql as 'begin return new; end';
         create trigger mine before insert on S._private_jobs for each row execute function public.mine();
         create view public.my_view as select id from S.jobs",
    )
    .await;
    BackfillClient::with_pool_and_schema(pool.clone(), "s").await.expect("migrate");
    assert_eq!(ask(&pool, "s", "select tgname from pg_trigger where not tgisinternal").await, "mine");
    assert_eq!(ask(&pool, "s", "select count(*) from public.my_view").await, "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_that_waits_for_a_lock_lets_heartbeats_and_claims_pass() {
    let (client, pool, schema) = support::client().await;
    let storage = client.storage().consumer();
    let (id, tasks) = (WorkerId::random(), ["t".to_owned()]);
    storage.register(&Registration::new(&id, &tasks)).await.expect("register");
    // The last of our own objects is yet to come.
    let older = "alter table S.backfill_pools drop column dead_after; delete from S.backfill_migrations where id >= 4";
    sql(&pool, &schema, older).await;
    // As a dump does.
    let mut dump = pool.begin().await.expect("begin");
    let lock = format!("lock table \"{schema}\".backfill_pools, \"{schema}\"._private_jobs in access share mode");
    sqlx::raw_sql(sqlx::AssertSqlSafe(lock)).execute(&mut *dump).await.expect("lock");
    let migration = tokio::spawn({
        let client = client.clone();
        async move { client.migrate().await }
    });
    let waits = format!(
        "select count(*) > 0 from pg_locks where not granted and relation = '\"{schema}\".backfill_pools'::regclass"
    );
    for _ in 0..2 {
        until("it waits for the lock", || async { ask(&pool, &schema, &waits).await == "true" }).await;
        assert!(soon("a heartbeat passes", storage.heartbeat(&id)).await.expect("heartbeat"));
        soon("a claim passes", storage.claim(&ClaimRequest::new(&id, &tasks, 1))).await.expect("claim");
    }
    assert!(!migration.is_finished(), "it waits as long as the dump takes");
    dump.rollback().await.expect("the dump ends");
    soon("the migration ends", migration).await.expect("no panic").expect("migrate");
    assert_eq!(ask(&pool, &schema, "select count(*) from S.backfill_migrations where id = 4").await, "1");
}
