//! `backfill doctor`: what it finds, and that it finds nothing where nothing is wrong.

mod common;

use common::support::{node, until};
use common::{Running, SCHEMA, Scene};
use serde_json::Value;

impl Scene {
    /// What it found: check, problem, remedy.
    async fn findings(&self) -> Vec<(String, String, String)> {
        let ran = self.run(&["doctor", "--json"]).await;
        let told: Value = serde_json::from_str(&ran.out).unwrap_or_else(|_| panic!("{}{}", ran.out, ran.err));
        let text = |check: &Value, name: &str| check[name].as_str().unwrap_or_default().to_owned();
        let all = told.as_array().expect("checks");
        let skipped: Vec<&Value> = all.iter().filter(|check| check["status"] == "skipped").collect();
        let found: Vec<_> = all
            .iter()
            .filter(|check| check["status"] == "found")
            .map(|check| (text(check, "check"), text(check, "problem"), text(check, "remedy")))
            .collect();
        assert!(!found.is_empty() || skipped.is_empty(), "{skipped:?}");
        assert_eq!(ran.status, Some(i32::from(!found.is_empty())));
        found
    }

    /// Breaks something, expects this one finding, mends it.
    async fn breaks(&self, how: &str, expected: (&str, &str, &str), mend: &str) {
        self.sql(how).await;
        let found = self.findings().await;
        assert_eq!(found.len(), 1, "{found:#?}");
        let (check, problem, remedy) = &found[0];
        assert_eq!(check, expected.0);
        assert!(problem.contains(expected.1), "{problem}");
        assert!(remedy.contains(expected.2), "{remedy}");
        self.sql(mend).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_found_in_a_schema_of_ours_or_nodes() {
    let ours = Scene::new().await;
    let told = ours.run(&["doctor"]).await.ok();
    assert!(told.lines().count() == 17 && told.lines().all(|line| line.starts_with("fine ")), "{told}");
    for name in ["jobs", "s", "tasks", "we\"ird"] {
        ours.run(&["-s", name, "migrate"]).await.ok();
        let told = ours.run(&["-s", name, "doctor"]).await.ok();
        assert!(told.lines().all(|line| line.starts_with("fine ")), "{name}: {told}");
    }
    let theirs = Scene::empty().await;
    node::migrate("graphile-worker", &theirs.url, SCHEMA).await;
    let told = theirs.run(&["doctor"]).await.ok();
    assert!(told.lines().count() == 17 && told.lines().all(|line| line.starts_with("fine ")), "{told}");
    assert!(told.contains("without the objects of backfill's own"), "{told}");
    theirs.breaks("drop index S.jobs_no_queue_index", ("objects", "the index jobs_no_queue_index is missing", "CREATE INDEX"),
        "create index jobs_no_queue_index on S._private_jobs using btree (priority, run_at) include (id, task_id) where (is_available = true and job_queue_id is null)").await;
    assert!(theirs.run(&["migrate"]).await.ok().starts_with("added backfill's own objects to the schema"));
    assert!(theirs.run(&["migrate"]).await.ok().ends_with("already\n"));
    assert!(theirs.findings().await.is_empty());
    // And one that has come a long way.
    let old = Scene::empty().await;
    node::migrate("graphile-worker-0.13", &old.url, SCHEMA).await;
    let found = old.findings().await;
    assert!(found.len() == 1 && found[0].2.contains("upgrade them to graphile-worker 0.18 first"), "{found:?}");
    let jobs = old.run(&["jobs"]).await;
    assert!(
        jobs.status == Some(1) && jobs.err.contains("is at revision 10, and this version needs 20"),
        "{}",
        jobs.err
    );
    old.run(&["migrate"]).await.ok();
    assert_eq!(old.findings().await, []);
}

/// Messages are part of a schema that has them, and leases are no locks that nobody ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_found_in_a_schema_with_messages() {
    let scene = Scene::new().await;
    assert!(scene.run(&["migrate", "--messages"]).await.ok().starts_with("added what messages need to the schema"));
    assert!(scene.run(&["migrate", "--messages"]).await.ok().ends_with("already\n"));
    scene.run(&["messages", "-s", SCHEMA, "send", "q", "1", "--group", "g"]).await.ok();
    scene.run(&["messages", "-s", SCHEMA, "send", "q", "2"]).await.ok();
    scene.run(&["messages", "-s", SCHEMA, "take", "q", "--limit", "2", "--lease", "7d"]).await.ok();
    let told = scene.run(&["doctor"]).await.ok();
    assert!(told.lines().all(|line| line.starts_with("fine ")), "{told}");
    scene
        .breaks(
            "drop index S.backfill_jobs_line",
            ("objects", "the index backfill_jobs_line is missing", "CREATE INDEX"),
            "create index backfill_jobs_line on S._private_jobs (task_id, priority, run_at, id) where is_available = true",
        )
        .await;
    scene.run(&["-s", "others", "migrate"]).await.ok();
    let told = scene.run(&["-s", "others", "doctor"]).await.ok();
    assert!(told.lines().all(|line| line.starts_with("fine ")), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_trouble_is_found_with_its_remedy() {
    let scene = Scene::new().await;
    scene.breaks("drop index S.jobs_no_queue_index", ("objects", "the index jobs_no_queue_index is missing", "CREATE INDEX"),
        "create index jobs_no_queue_index on S._private_jobs using btree (priority, run_at) include (id, task_id) where (is_available = true and job_queue_id is null)").await;
    scene
        .breaks(
            "create index mine on S._private_jobs (key)",
            ("objects", "the index mine is not part", "remove it"),
            "drop index S.mine",
        )
        .await;
    scene
        .breaks(
            "alter table S._private_tasks add mine int",
            ("objects", "the column _private_tasks.mine is not part", "remove it"),
            "alter table S._private_tasks drop mine",
        )
        .await;
    scene
        .breaks(
            "alter table S._private_jobs alter max_attempts set default 3",
            ("objects", "the column _private_jobs.max_attempts differs", "should be smallint not null default 25"),
            "alter table S._private_jobs alter max_attempts set default 25",
        )
        .await;
    scene.breaks("create or replace function S.complete_jobs(job_ids bigint[]) returns setof S._private_jobs language sql as 'select * from graphile_worker._private_jobs'",
        ("objects", "the body of the function complete_jobs(job_ids bigint[]) was changed", "restore it"),
        "select 1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_add_jobs_of_an_earlier_version_is_found_until_it_is_migrated() {
    let scene = Scene::new().await;
    // As a migration writes it: with the schema's name quoted.
    let earlier = include_str!("../../../tests/support/sql/earlier_add_jobs.sql");
    scene.sql(&earlier.replace("S.", &format!("\"{SCHEMA}\"."))).await;
    scene.sql("delete from S.backfill_migrations where id >= 5").await;
    let found = scene.findings().await;
    let (check, problem, remedy) = &found[0];
    assert!(found.len() == 1 && check == "objects", "{found:?}");
    assert!(problem.contains("add_jobs") && problem.contains("is an earlier version's"), "{problem}");
    assert!(remedy.contains("backfill migrate"), "{remedy}");
    scene.run(&["migrate"]).await.ok();
    assert_eq!(scene.findings().await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_builds_up_is_found_with_its_remedy() {
    let scene = Scene::new().await;
    scene
        .breaks(
            "insert into S.migrations (id) values (21)",
            ("revision", "is at revision 21, and this version knows revisions up to 20", "upgrade backfill"),
            "delete from S.migrations where id = 21",
        )
        .await;
    scene.run(&["add", "t", "--queue", "q"]).await.ok();
    scene
        .breaks(
            "update S._private_jobs set locked_by = 'pool-old', locked_at = now() - interval '5 hours'",
            ("locks", "1 locks of pool-old are older than four hours", "backfill unlock pool-old"),
            "update S._private_jobs set locked_by = null, locked_at = null",
        )
        .await;
    scene
        .breaks(
            "insert into S.backfill_pools (id, seen_at) values ('pool-x', now() - interval '1 hour')",
            ("locks", "the worker pool-x was last seen 36", "run a worker"),
            "delete from S.backfill_pools",
        )
        .await;
    scene
        .breaks(
            "create table kept as table S._private_job_queues; delete from S._private_job_queues",
            ("orphans", "1 jobs belong to a queue that was deleted", "set job_queue_id = null"),
            "update S._private_jobs set job_queue_id = null",
        )
        .await;
    scene
        .breaks(
            "delete from S._private_tasks",
            ("orphans", "1 jobs belong to a task that was deleted", "delete from \"graphile_worker\"._private_jobs"),
            "delete from S._private_jobs",
        )
        .await;
    scene
        .breaks(
            "select setval('S.tasks_id_seq', 2000000000)",
            ("numbers", "the sequence tasks_id_seq is used up by 93 %", "upgrade Node's graphile-worker"),
            "select setval('S.tasks_id_seq', 5)",
        )
        .await;
    // A table that was filled and never looked at.
    scene.sql("alter table S._private_jobs set (autovacuum_enabled = off)").await;
    scene.sql("insert into S._private_jobs (task_id) select 1 from generate_series(1, 20000)").await;
    scene.sql("insert into S._private_tasks (identifier) values ('t')").await;
    scene.sql("update S._private_jobs set task_id = (select id from S._private_tasks)").await;
    until("statistics have arrived", || async {
        scene.ask("select n_live_tup > 10000 from pg_stat_user_tables where relname = '_private_jobs'").await == "true"
    })
    .await;
    scene
        .breaks(
            "select 1",
            ("rows", " rows and no statistics", "analyze \"graphile_worker\".\"_private_jobs\""),
            "analyze S._private_jobs",
        )
        .await;
    for _ in 0..3 {
        scene.sql("update S._private_jobs set attempts = attempts + 1").await;
    }
    until("statistics have arrived", || async {
        scene.ask("select n_dead_tup > 60000 from pg_stat_user_tables where relname = '_private_jobs'").await == "true"
    })
    .await;
    scene
        .breaks("select 1", ("rows", "dead rows beside 20000 live ones", "autovacuum_vacuum_scale_factor"), "select 1")
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_that_differ_are_found() {
    let Some(library) = std::env::var_os("BACKFILL_TEST_FAKETIME") else {
        eprintln!("left out: there is no libfaketime");
        return;
    };
    let scene = Scene::new().await;
    let mut command = scene.command(&["doctor"]);
    command.env("LD_PRELOAD", library).env("FAKETIME", "+1h").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    let output = command.output().await.expect("it runs");
    let told = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{told}");
    let found = told.lines().find(|line| line.starts_with("found")).expect("a finding");
    assert!(found.contains("clock: the server's clock and this machine's differ by -3"), "{told}");
    assert!(told.contains("remedy: let both machines follow NTP"), "{told}");
    // What is due is told by the server's clock all the same.
    scene.run(&["add", "t", "--in", "2h"]).await.ok();
    let mut command = scene.command(&["run-now", "1"]);
    let library = std::env::var_os("BACKFILL_TEST_FAKETIME").expect("as before");
    command.env("LD_PRELOAD", library).env("FAKETIME", "+1h").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    assert!(command.output().await.expect("it runs").status.success());
    assert_eq!(scene.ask("select run_at <= now() from S._private_jobs").await, "true");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_may_not_work_is_told_what_is_missing() {
    let scene = Scene::new().await;
    let role = common::support::unique("role");
    scene.sql(&format!("create role {role} login; grant usage on schema graphile_worker to {role}; grant select on S.migrations, S.backfill_migrations to {role}")).await;
    let url = scene.url.replacen("postgres@", &format!("{role}@"), 1);
    let output = scene.command(&["doctor", "--database-url", &url]).output().await.expect("it runs");
    let told = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{told}");
    for says in [
        "found    privileges: this role may not select, insert, update, delete in the table _private_jobs",
        &format!("remedy: grant select, insert, update, delete on \"graphile_worker\".\"_private_jobs\" to \"{role}\""),
        "row security hides every row of the table _private_jobs from this role",
        "skipped  objects: ",
    ] {
        assert!(told.contains(says), "{says} in {told}");
    }
    // Who sees nothing is told so, and not that there are no jobs.
    scene.sql(&format!("grant select, delete on all tables in schema graphile_worker to {role}")).await;
    for command in [&["jobs"][..], &["stats"], &["job", "1"], &["complete", "1"], &["cleanup", "--dead"]] {
        let output = scene.command(command).args(["--database-url", &url]).output().await.expect("it runs");
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{command:?}: {told}");
        assert!(told.contains("row security hides every row") && told.contains("bypassrls"), "{command:?}: {told}");
    }
    scene.sql(&format!("drop owned by {role}; drop role {role}")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreachable_or_unmigrated_database_is_a_finding() {
    let scene = Scene::empty().await;
    let found = scene.findings().await;
    assert!(found.len() == 1 && found[0].0 == "revision" && found[0].2.contains("backfill migrate"), "{found:?}");
    let gone = scene.run(&["doctor", "--json", "--database-url", "postgres://127.0.0.1:9/x"]).await;
    assert_eq!(gone.status, Some(1));
    let told: Value = serde_json::from_str(&gone.out).expect("JSON");
    assert_eq!((&told[0]["check"], &told[0]["status"]), (&Value::from("connection"), &Value::from("found")));
    // A worker that runs is no trouble.
    scene.task("t", "#!/bin/sh\n");
    let mut worker = Running::start(scene.command(&["worker"]));
    worker.logs("serving").await;
    assert!(scene.findings().await.is_empty());
    worker.signal("TERM").await;
    assert_eq!(worker.ended().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_did_to_a_schema_is_found_with_its_remedy() {
    let scene = Scene::new().await;
    scene
        .breaks(
            "create function S.add_job(identifier text, payload json, run_at timestamptz, tenant int default 0) returns int \
             language sql as 'select 1'",
            (
                "objects",
                "the function add_job(identifier text, payload json, run_at timestamp with time zone, tenant integer) is not part",
                "drop function \"graphile_worker\".add_job(identifier text, payload json",
            ),
            "drop function S.add_job(text, json, timestamptz, int)",
        )
        .await;
    scene.sql("create function S.mine() returns int language sql as 'select 1'").await;
    assert_eq!(scene.findings().await, [], "a function of another name is the user's own");

    scene.run(&["add", "t", "--queue", "q"]).await.ok();
    let hold = "update S._private_jobs set locked_by = 'pool-gone', locked_at = now() - interval '2 min'";
    let free = "update S._private_jobs set locked_by = null, locked_at = null";
    scene
        .breaks(
            hold,
            ("holders", "1 locks are held by pool-gone, which is not registered", "backfill unlock pool-gone"),
            free,
        )
        .await;
    // A worker of Node's never registers.
    scene.sql(hold).await;
    let mut node = node::start("worker.mjs", &[&scene.url, SCHEMA, "1"]);
    until("Node's worker listens", || async {
        let listens =
            "select 1 from pg_stat_activity where datname = current_database() and query like 'LISTEN%worker:migrate%'";
        !scene.ask(listens).await.is_empty()
    })
    .await;
    assert_eq!(scene.findings().await, []);
    node.kill().await.expect("kill");
    scene.sql(free).await;

    let crontab = "insert into S._private_known_crontabs values ('daily', now(), now() + interval '3 days')";
    scene
        .breaks(
            crontab,
            (
                "times",
                "the crontab entry \"daily\" was last executed 3 days from now",
                "set last_execution = now() where last_execution > now()",
            ),
            "update S._private_known_crontabs set last_execution = now() where last_execution > now()",
        )
        .await;
    scene
        .breaks(
            "insert into S.backfill_pools (id, seen_at) values ('pool-ahead', now() + interval '1 hour')",
            ("times", "the last heartbeat of pool-ahead is dated ahead", "backfill unlock pool-ahead"),
            "delete from S.backfill_pools",
        )
        .await;
    scene
        .breaks(
            "update S._private_jobs set locked_by = 'pool-late', locked_at = now() + interval '1 hour'",
            ("times", "1 locks of pool-late are dated ahead", "backfill unlock pool-late"),
            free,
        )
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_that_was_renamed_is_found_and_its_functions_are_made_anew_by_the_remedy() {
    let scene = Scene::new().await;
    scene.sql("alter schema graphile_worker rename to \"moved on\"").await;
    let doctor = scene.run(&["-s", "moved on", "doctor"]).await;
    assert_eq!(doctor.status, Some(1), "{}", doctor.out);
    let found: Vec<&str> = doctor.out.lines().filter(|line| line.starts_with("found")).collect();
    assert!(
        found.len() == 1 && found[0].contains("work on the tables of \"graphile_worker\": it was renamed"),
        "{found:?}"
    );
    let remedy = "delete from \"moved on\".migrations where id = 20; delete from \"moved on\".backfill_migrations where id >= 6;";
    assert!(doctor.out.contains(remedy) && doctor.out.contains("rename it back"), "{}", doctor.out);
    scene.sql(remedy).await;
    scene.run(&["-s", "moved on", "migrate"]).await.ok();
    assert_eq!(scene.run(&["-s", "moved on", "doctor"]).await.status, Some(0));
    scene.sql("select \"moved on\".add_job('t')").await;
    assert!(scene.run(&["-s", "moved on", "jobs"]).await.ok().contains("ready"));
    // And under its old name it is missed, with the new one.
    assert!(scene.run(&["doctor"]).await.out.contains("has no job queue in it"));
}
