//! Creating, checking and sharing the schema.

mod support;

use std::process::Stdio;

use backfill::error::Unready;
use backfill::{BackfillClient, Error, JobContext, JobSpec, Worker, task_fn};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use support::{ask, assert_same_lines, catalog, client, database, dump, node, pool, soon, sql, unique, until};

const NEWEST: i32 = 20;

/// A client that must not migrate.
async fn unmigrated(pool: &PgPool, schema: &str) -> backfill::Result<BackfillClient> {
    BackfillClient::builder().pool(pool.clone()).schema(schema).migrate(false).build().await
}

#[tokio::test]
async fn a_new_schema_is_the_one_that_node_makes() {
    let (node_pool, node_url) = database().await;
    let (our_pool, our_url) = database().await;
    node::migrate("graphile-worker", &node_url, "graphile_worker").await;
    BackfillClient::new(&our_url).await.expect("migrate");
    let (ours, theirs) = (catalog(&our_pool, "graphile_worker").await, catalog(&node_pool, "graphile_worker").await);
    assert!(theirs.len() > 50);
    assert_same_lines(&ours.join("\n"), &theirs.join("\n"));
    if let Some(theirs) = dump(&node_url, "graphile_worker").await {
        let ours = dump(&our_url, "graphile_worker").await.expect("the same pg_dump");
        assert!(theirs.contains("CREATE TABLE") && theirs.contains("CREATE FUNCTION"), "{theirs}");
        assert_same_lines(&ours, &theirs);
    }
    // And Node is content with it: it starts, finds nothing to migrate, and runs what is there.
    let output = node::cli("graphile-worker", &our_url, "graphile_worker", &["--schema-only"]).await;
    assert!(output.status.success());
    let breaking = "select string_agg(id::text, ',' order by id) from S.migrations where breaking";
    assert_eq!(ask(&our_pool, "graphile_worker", breaking).await, "1,3,11,13,14,16,19");
    assert_eq!(ask(&our_pool, "graphile_worker", "select max(id) || '/' || count(*) from S.migrations").await, "20/20");
}

#[tokio::test]
async fn our_own_objects_are_marked_secured_and_in_a_ledger_of_their_own() {
    let (_, pool, schema) = client().await;
    let own = format!(
        "select relname || ' ' || relrowsecurity from pg_class where relnamespace = '\"{schema}\"'::regnamespace and relkind = 'r'
         and relname not like '\\_private%' and relname <> 'migrations' order by 1"
    );
    assert_eq!(ask(&pool, &schema, &own).await, "backfill_imports true;backfill_migrations true;backfill_pools true");
    let keys = format!(
        "select count(*) from pg_constraint where contype = 'f' and connamespace = '\"{schema}\"'::regnamespace"
    );
    assert_eq!(ask(&pool, &schema, &keys).await, "0");
    assert_eq!(
        ask(&pool, &schema, "select id || name from S.backfill_migrations").await,
        "1pools;2imports;3handover;4dead_after;5add_jobs;6claim;7serves;8status"
    );
}

#[tokio::test]
async fn an_earlier_add_jobs_of_ours_is_replaced_and_any_other_is_left() {
    let body =
        "select md5(fn.prosrc) from pg_proc fn where fn.proname = 'add_jobs' and fn.pronamespace = 'S'::regnamespace";
    let body = |schema: &str| body.replace("'S'", &format!("'\"{schema}\"'"));
    let earlier = include_str!("support/sql/earlier_add_jobs.sql");
    let forget = "delete from S.backfill_migrations where id >= 5";

    let (client, pool, schema) = client().await;
    let ours = ask(&pool, &schema, &body(&schema)).await;
    sql(&pool, &schema, earlier).await;
    sql(&pool, &schema, forget).await;
    assert_ne!(ask(&pool, &schema, &body(&schema)).await, ours);
    assert!(matches!(
        unmigrated(&pool, &schema).await,
        Err(Error::NotReady { reason: Unready::OwnObjectsMissing, .. })
    ));
    client.migrate().await.expect("migrate");
    assert_eq!(ask(&pool, &schema, &body(&schema)).await, ours);

    // What somebody changed stays: it may be on purpose, and `doctor` tells.
    sql(&pool, &schema, &earlier.replace("'{\"r\":'", "'{ \"r\":'")).await;
    let changed = ask(&pool, &schema, &body(&schema)).await;
    sql(&pool, &schema, forget).await;
    client.migrate().await.expect("migrate");
    assert_eq!(ask(&pool, &schema, &body(&schema)).await, changed);

    let (pool, _) = database().await;
    node::schema_at(&pool, "nodes", NEWEST).await;
    let nodes = ask(&pool, "nodes", &body("nodes")).await;
    BackfillClient::with_pool_and_schema(pool.clone(), "nodes").await.expect("our own objects");
    assert_eq!(ask(&pool, "nodes", &body("nodes")).await, nodes);

    // Coming from an older revision of Node's, as the other functions do.
    let (pool, _) = database().await;
    node::schema_at(&pool, "old", 19).await;
    BackfillClient::with_pool_and_schema(pool.clone(), "old").await.expect("migrate");
    let unquoted = |schema: &str| {
        format!(
            "select md5(replace(fn.prosrc, '\"{schema}\"', 'S')) from pg_proc fn where fn.proname = 'add_jobs' and fn.pronamespace = '\"{schema}\"'::regnamespace"
        )
    };
    let (_, pool_of_ours, schema) = support::client().await;
    assert_eq!(ask(&pool, "old", &unquoted("old")).await, ask(&pool_of_ours, &schema, &unquoted(&schema)).await);
}

/// Not a test by itself: the process that `twenty_processes…` starts twenty of.
#[tokio::test]
async fn child_process_that_migrates() {
    let Ok(url) = std::env::var("CHILD_DATABASE_URL") else { return };
    BackfillClient::new_with_schema(&url, "jobs of twenty").await.expect("migrate");
}

#[tokio::test]
async fn twenty_processes_starting_at_once_all_succeed() {
    let (pool, url) = database().await;
    let children: Vec<_> = (0..20)
        .map(|_| {
            tokio::process::Command::new(std::env::current_exe().expect("this test"))
                .args(["--exact", "child_process_that_migrates", "--nocapture"])
                .env("CHILD_DATABASE_URL", &url)
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .kill_on_drop(true)
                .spawn()
                .expect("start")
        })
        .collect();
    for child in children {
        let output = soon("a child ends", child.wait_with_output()).await.expect("wait");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(ask(&pool, "jobs of twenty", "select count(*) from S.migrations").await, "20");
}

#[tokio::test]
async fn node_and_rust_migrating_at_once_both_succeed() {
    let (pool, url) = database().await;
    let nodes = (0..3).map(|_| node::migrate("graphile-worker", &url, "graphile_worker"));
    let rusts = (0..6).map(|_| async { BackfillClient::new(&url).await.map(drop).expect("migrate") });
    futures::join!(futures::future::join_all(nodes), futures::future::join_all(rusts));
    assert_eq!(ask(&pool, "graphile_worker", "select count(*) from S.migrations").await, "20");
}

#[tokio::test]
async fn any_name_that_postgresql_accepts_works_from_migration_to_the_last_statement() {
    let pool = pool().await;
    let long = format!("{}{}", "x".repeat(41), &unique("y")[..22]);
    assert_eq!(long.len(), 63);
    let names = [
        unique("Mixed Case"),
        unique("quote\"d"),
        unique("it's"),
        unique("ünï ☃"),
        unique("select $1; --"),
        unique("a.b"),
        unique("a$$b $body0$"),
        unique("'graphile_worker'."),
        long,
    ];
    for schema in names {
        let client = BackfillClient::with_pool_and_schema(pool.clone(), &schema).await.expect(&schema);
        let mut tx = pool.begin().await.expect("begin");
        client.add(JobSpec::new("t", "x").serial_queue("q").key("k")).within(&mut tx).await.expect(&schema);
        tx.commit().await.expect("commit");
        client.add(JobSpec::new("t", "y").serial_queue("q").key("gone")).await.expect(&schema);
        assert!(client.remove("gone").await.expect(&schema).is_some());
        let worker = Worker::builder(client.clone())
            .task(task_fn("t", |_: String, _: JobContext| async { Err::<(), _>("no") }))
            .build()
            .expect("worker");
        assert_eq!(worker.run_until_idle().await.expect(&schema).failed, 1);
        assert_eq!(client.counts().await.expect(&schema).retrying, 1);
        client.cleanup(&backfill::Cleanup::new().dead_jobs().tasks(["t"]).queues()).await.expect(&schema);
    }
}

#[tokio::test]
async fn names_that_postgresql_refuses_are_refused_with_the_reason() {
    let pool = pool().await;
    for (name, reason) in [("", "empty"), ("pg_x", "pg_"), (&"x".repeat(64), "64 bytes"), ("a\0", "NUL")] {
        let error = BackfillClient::with_pool_and_schema(pool.clone(), name).await.expect_err(name);
        assert!(matches!(error, Error::InvalidSchemaName { .. }) && error.to_string().contains(reason), "{error}");
    }
}

#[tokio::test]
async fn without_migrating_a_missing_or_old_schema_is_an_error_that_says_so() {
    let (pool, _) = database().await;
    let error = unmigrated(&pool, "nowhere").await.expect_err("missing");
    assert!(error.is_missing() && error.to_string().contains("client.migrate()"), "{error}");
    node::schema_at(&pool, "old", 18).await;
    let error = unmigrated(&pool, "old").await.expect_err("old");
    assert!(
        matches!(error, Error::NotReady { reason: Unready::Outdated { found: 18, needed: NEWEST }, .. }),
        "{error}"
    );
    node::schema_at(&pool, "nodes", NEWEST).await;
    let error = unmigrated(&pool, "nodes").await.expect_err("without our own objects");
    assert!(matches!(error, Error::NotReady { reason: Unready::OwnObjectsMissing, .. }), "{error}");
    let client = BackfillClient::with_pool_and_schema(pool.clone(), "nodes").await.expect("migrate");
    assert_eq!(client.migrate().await.expect("again").from, Some(NEWEST));
    unmigrated(&pool, "nodes").await.expect("now it is there");
}

#[tokio::test]
async fn a_client_for_a_url_says_the_same_of_a_schema_and_keeps_no_connection_for_having_looked() {
    let (pool, url) = database().await;
    let url = format!("{url}?application_name=theirs");
    let build = |migrate| BackfillClient::builder().database_url(url.as_str()).migrate(migrate).build();
    assert!(matches!(build(false).await, Err(Error::NotReady { reason: Unready::Missing, .. })));
    assert_eq!(ask(&pool, "", "select count(*) from pg_namespace where nspname = 'graphile_worker'").await, "0");
    build(true).await.expect("it migrates");
    let ready = [build(true).await.expect("nothing to do"), build(false).await.expect("it is there")];
    let theirs = "select count(*) from pg_stat_activity
                  where datname = current_database() and application_name = 'theirs'";
    let sessions = || async { ask(&pool, "", theirs).await.parse::<usize>().expect("a number") };
    until("they have no connection yet", || async { sessions().await == 0 }).await;
    ready[0].add(JobSpec::new("t", 1)).await.expect("add");
    assert!(sessions().await > 0, "this is how they would be seen");
    sql(&pool, "graphile_worker", "drop view S.jobs").await;
    for migrate in [true, false] {
        assert!(matches!(build(migrate).await, Err(Error::NotReady { reason: Unready::Incomplete { .. }, .. })));
    }
    sql(&pool, "graphile_worker", "insert into S.migrations (id, breaking) values (21, true)").await;
    for migrate in [true, false] {
        assert!(matches!(build(migrate).await, Err(Error::NotReady { reason: Unready::TooNew { .. }, .. })));
    }
}

#[tokio::test]
async fn a_schema_older_than_revision_10_is_refused_with_the_way_out() {
    let (pool, _) = database().await;
    for revision in [1, 9] {
        let schema = format!("r{revision}");
        node::schema_at(&pool, &schema, revision).await;
        let error = BackfillClient::with_pool_and_schema(pool.clone(), &schema).await.expect_err("too old");
        assert!(matches!(error, Error::NotReady { reason: Unready::TooOld { .. }, .. }), "{error}");
        assert!(error.to_string().contains("graphile-worker@0.13.0"), "{error}");
        assert_eq!(ask(&pool, &schema, "select max(id) from S.migrations").await, revision.to_string());
    }
}

#[tokio::test]
async fn a_newer_schema_works_unless_it_is_breaking() {
    let (client, pool, schema) = client().await;
    sql(&pool, &schema, "insert into S.migrations (id) values (999999)").await;
    let newer = BackfillClient::with_pool_and_schema(pool.clone(), &schema).await.expect("newer, not breaking");
    newer.add(JobSpec::new("t", 1)).await.expect("works");
    sql(&pool, &schema, "update S.migrations set breaking = true where id = 999999").await;
    let error = client.migrate().await.expect_err("newer and breaking");
    assert!(
        matches!(
            error,
            Error::NotReady { reason: Unready::TooNew { breaking: Some(999_999), supported: NEWEST, .. }, .. }
        ),
        "{error}"
    );
    assert!(matches!(unmigrated(&pool, &schema).await, Err(Error::NotReady { reason: Unready::TooNew { .. }, .. })));

    // Nothing is written to a schema that we do not understand.
    let (pool, _) = database().await;
    node::schema_at(&pool, "nodes", NEWEST).await;
    sql(&pool, "nodes", "insert into S.migrations (id, breaking) values (21, true)").await;
    let error = BackfillClient::with_pool_and_schema(pool.clone(), "nodes").await.expect_err("newer and breaking");
    assert!(matches!(error, Error::NotReady { reason: Unready::TooNew { breaking: Some(21), .. }, .. }), "{error}");
    assert!(matches!(unmigrated(&pool, "nodes").await, Err(Error::NotReady { reason: Unready::TooNew { .. }, .. })));
    assert_eq!(ask(&pool, "nodes", "select to_regclass('nodes.backfill_migrations')").await, "");
}

#[tokio::test]
async fn half_a_schema_is_an_error_of_its_own() {
    let damages = [
        (
            "drop view S.jobs; drop table S._private_tasks cascade; drop function S.add_jobs(S.job_spec[], boolean)",
            "table _private_tasks, view jobs, function add_jobs",
        ),
        ("drop view S.jobs", "view jobs"),
        ("drop function S.add_jobs(S.job_spec[], boolean)", "function add_jobs"),
        ("drop table S.backfill_pools", "table backfill_pools"),
    ];
    for (damage, named) in damages {
        let (_, pool, schema) = client().await;
        sql(&pool, &schema, damage).await;
        let error = BackfillClient::with_pool_and_schema(pool.clone(), &schema).await.expect_err(damage);
        assert!(
            matches!(&error, Error::NotReady { reason: Unready::Incomplete { missing, .. }, .. } if missing == named),
            "{damage}: {error}"
        );
    }
    let (_, pool, schema) = client().await;
    sql(&pool, &schema, "delete from S.migrations").await;
    let error = BackfillClient::with_pool_and_schema(pool.clone(), &schema).await.expect_err("no ledger");
    assert!(matches!(error, Error::NotReady { reason: Unready::Incomplete { found: 0, .. }, .. }), "{error}");
    assert!(matches!(
        unmigrated(&pool, &schema).await,
        Err(Error::NotReady { reason: Unready::Incomplete { found: 0, .. }, .. })
    ));
    let (pool, _) = database().await;
    node::schema_at(&pool, "half", 14).await;
    sql(&pool, "half", "drop table S.known_crontabs").await;
    let error = BackfillClient::with_pool_and_schema(pool.clone(), "half").await.expect_err("half of revision 14");
    assert!(matches!(error, Error::NotReady { reason: Unready::Incomplete { found: 14, .. }, .. }), "{error}");
    assert_eq!(ask(&pool, "half", "select max(id) from S.migrations").await, "14", "nothing was changed");
}

/// A role that may log in and nothing else, with a pool of its own.
async fn role(admin: &PgPool, url: &str) -> (String, PgPool) {
    let name = unique("role");
    sql(admin, "", &format!("create role {name} login")).await;
    let url = url.replace("//postgres@", &format!("//{name}@"));
    (name, PgPoolOptions::new().max_connections(3).connect(&url).await.expect("log in"))
}

#[tokio::test]
async fn missing_privileges_are_named_with_the_grant_that_gives_them() {
    let (admin, url) = database().await;
    let (name, mine) = role(&admin, &url).await;
    let grant_in = |error: &Error| match error {
        Error::MissingPrivilege { grant, .. } => grant.clone(),
        other => panic!("{other}"),
    };

    let error = BackfillClient::with_pool_and_schema(mine.clone(), "fresh").await.expect_err("may not create");
    let grant = grant_in(&error);
    assert!(grant.starts_with("grant create on database"), "{grant}");
    sql(&admin, "", &grant).await;
    let client = BackfillClient::with_pool_and_schema(mine.clone(), "fresh").await.expect("the grant was enough");
    client.add(JobSpec::new("t", 1)).await.expect("add");

    BackfillClient::with_pool_and_schema(admin.clone(), "theirs").await.expect("migrate");
    let error = unmigrated(&mine, "theirs").await.expect_err("may not look");
    let grant = grant_in(&error);
    assert!(grant.contains("grant usage") && grant.contains("bypassrls"), "nobody is sent round twice: {grant}");
    sql(&admin, "", &grant).await;
    let client = unmigrated(&mine, "theirs").await.expect("may look");
    let error = client.add(JobSpec::new("t", 1)).await.expect_err("may not add");
    let grant = grant_in(&error);
    assert!(grant.contains("grant insert, update on") && !grant.contains("delete"), "no more than is missing: {grant}");
    sql(&admin, "", &grant).await;
    sql(&admin, "", &format!("alter role {name} nobypassrls")).await;
    let error = client.add(JobSpec::new("t", 1)).await.expect_err("row-level security");
    assert!(grant_in(&error).contains("bypassrls"), "{error}");
    sql(&admin, "", &format!("alter role {name} bypassrls")).await;
    // Statements that a connection has planned already keep the old rule.
    let mine = PgPoolOptions::new().connect_with((*mine.connect_options()).clone()).await.expect("reconnect");
    let client = unmigrated(&mine, "theirs").await.expect("may look");
    client.add(JobSpec::new("t", 1)).await.expect("add");

    // A schema made for the role needs no right to create schemas.
    sql(&admin, "", &format!("revoke create on database {} from {name}", url.rsplit('/').next().expect("a name")))
        .await;
    sql(&admin, "", &format!("create schema made authorization {name}")).await;
    BackfillClient::with_pool_and_schema(mine, "made").await.expect("migrate in a schema made for it");
}

#[tokio::test]
async fn a_running_worker_obeys_a_breaking_migration_of_its_own_schema_only() {
    // A database of its own: the notices below would reach every worker of the shared one.
    let (pool, url) = database().await;
    let client = BackfillClient::with_pool_and_schema(pool.clone(), "mine").await.expect("migrate");
    let worker = Worker::builder(client.clone())
        .task(task_fn("t", |(): (), _: JobContext| async {}))
        .handle_signals(false)
        .build()
        .expect("worker");
    let running = tokio::spawn(async move { worker.run().await });
    let done = |what: &'static str| {
        let client = client.clone();
        async move {
            client.add(JobSpec::new("t", ())).await.expect("add");
            until(what, || async { client.counts().await.expect("counts").total() == 0 }).await;
        }
    };
    done("the first job").await;

    // Another schema of the same database is created by us, and migrated by Node; and somebody cries wolf.
    BackfillClient::with_pool_and_schema(pool.clone(), "other").await.expect("migrate");
    node::migrate("graphile-worker", &url, "another").await;
    sql(&pool, "mine", r#"select pg_notify('worker:migrate', '{"migrationNumber":21,"breaking":true}')"#).await;
    done("a job after the others' migrations").await;
    assert!(!running.is_finished());

    sql(&pool, "mine", "insert into S.migrations (id, breaking) values (21, true)").await;
    sql(&pool, "mine", r#"select pg_notify('worker:migrate', '{"migrationNumber":21,"breaking":true}')"#).await;
    let error = soon("the worker stops", running).await.expect("no panic").expect_err("a breaking migration");
    assert!(matches!(error, Error::BreakingMigration { revision: 21, .. }), "{error}");
}

#[tokio::test]
async fn creating_a_schema_does_not_stop_node_workers_of_another() {
    let (pool, url) = database().await;
    let mut node = node::start("worker.mjs", &[&url, "graphile_worker", "1"]);
    until("Node has migrated", || async {
        ask(&pool, "pg_catalog", "select to_regclass('graphile_worker.jobs')").await == "graphile_worker.jobs"
    })
    .await;
    let client = BackfillClient::new(&url).await.expect("migrate");
    BackfillClient::with_pool_and_schema(pool.clone(), "second").await.expect("migrate");
    client.add(JobSpec::new("record", serde_json::json!({}))).await.expect("add");
    until("Node has run the job", || async { client.counts().await.expect("counts").total() == 0 }).await;
    assert!(node.try_wait().expect("wait").is_none(), "Node still runs");
}

#[tokio::test]
async fn a_worker_in_a_schema_that_was_renamed_claims_there() {
    let (pool, url) = database().await;
    let client = BackfillClient::new(&url).await.expect("migrate");
    client.add(JobSpec::new("t", 1)).await.expect("add");
    sql(&pool, "", "alter schema graphile_worker rename to \"moved on\"").await;
    let client = BackfillClient::new_with_schema(&url, "moved on").await.expect("migrate");
    let worker = Worker::builder(client).task(task_fn("t", async |_: u8, _: JobContext| {})).build().expect("worker");
    assert_eq!(worker.run_until_idle().await.expect("run").completed, 1);
}
