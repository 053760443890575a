//! Places that refuse what is asked of them: each is told for what it is, with what to do about it, and never as an empty queue.

mod common;

use common::support::server::Server;
use common::support::{soon, unique};
use common::{Ran, Scene};
use sqlx::PgPool;

/// Every command that changes something.
const CHANGES: [&[&str]; 9] = [
    &["worker", "--once"],
    &["add", "t"],
    &["complete", "1"],
    &["discard", "1"],
    &["remove", "k"],
    &["reschedule", "1", "--in", "1s"],
    &["run-now", "1"],
    &["cleanup", "--dead"],
    &["move", "--to", "sqlite:there.db"],
];

impl Scene {
    async fn run_at(&self, url: &str, args: &[&str]) -> Ran {
        let mut command = self.command(args);
        command.env("DATABASE_URL", url);
        soon("it ends", command.output()).await.expect("it runs").into()
    }

    /// Each of these fails, and says all of this.
    async fn refuses(&self, url: &str, commands: &[&[&str]], says: &[&str]) {
        for command in commands {
            let ran = self.run_at(url, command).await;
            assert_eq!(ran.status, Some(1), "{command:?}: {}{}", ran.out, ran.err);
            for what in says {
                assert!(ran.err.contains(what), "{command:?}: {what} in {}", ran.err);
            }
        }
    }
}

/// A database with one job in it, and a directory with a program for it.
async fn scene() -> Scene {
    let scene = Scene::new().await;
    scene.task("t", "#!/bin/sh\ncat >/dev/null\n");
    scene.run(&["add", "t", "--key", "k"]).await.ok();
    scene
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_may_only_be_read_is_told_with_the_statement_that_opens_it() {
    let scene = scene().await;
    let name = scene.url.rsplit('/').next().expect("a name").to_owned();
    scene.sql(&format!("alter database {name} set default_transaction_read_only = on")).await;
    let remedy = format!("alter database \"{name}\" reset default_transaction_read_only");
    scene.refuses(&scene.url, &CHANGES, &["may only be read", &remedy]).await;
    assert!(scene.run(&["jobs"]).await.ok().contains("ready"), "reading needs no more");
    let doctor = scene.run(&["doctor"]).await;
    assert_eq!(doctor.status, Some(1), "{}", doctor.out);
    assert!(doctor.out.contains("found    connection: jobs cannot be added or run here"), "{}", doctor.out);
    assert!(doctor.out.contains(&format!("remedy: {remedy}")), "{}", doctor.out);
    assert!(!doctor.out.contains("poll"), "a read-only place is no pooler: {}", doctor.out);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_is_told_as_one() {
    let scene = scene().await;
    let server = Server::start(&[]).await;
    let url = server.url("postgres", "postgres");
    scene.run_at(&url, &["add", "t", "--key", "k"]).await.ok();
    server.become_standby().await;
    scene.refuses(&url, &CHANGES, &["may only be read", "a standby", "the address of the primary"]).await;
    assert!(scene.run_at(&url, &["jobs"]).await.ok().contains("ready"));
    let doctor = scene.run_at(&url, &["doctor"]).await;
    assert_eq!(doctor.status, Some(1), "{}", doctor.out);
    assert!(doctor.out.contains("found    connection: ") && doctor.out.contains("a standby"), "{}", doctor.out);
    let found = doctor.out.lines().filter(|line| line.starts_with("found")).count();
    assert_eq!(found, 1, "{}", doctor.out);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_security_that_hides_jobs_is_told_by_every_command() {
    let scene = scene().await;
    let role = unique("role");
    scene
        .sql(&format!(
            "create role {role} login;
             grant usage on schema graphile_worker to {role};
             grant select, insert, update, delete on all tables in schema graphile_worker to {role};
             alter table S._private_jobs owner to {role};
             create policy open on S._private_job_queues to {role} using (true);
             create policy open on S._private_tasks to {role} using (true);
             create policy open on S._private_known_crontabs to {role} using (true);
             create policy open on S.backfill_pools to {role} using (true)"
        ))
        .await;
    let url = scene.url.replacen("postgres@", &format!("{role}@"), 1);
    // The owner sees its rows, unless even that is switched off.
    assert!(scene.run_at(&url, &["jobs"]).await.ok().contains("ready"));
    scene.sql("alter table S._private_jobs force row level security").await;
    let reads: [&[&str]; 3] = [&["jobs"], &["stats"], &["job", "1"]];
    let remedy = "alter table \"graphile_worker\".\"_private_jobs\" no force row level security";
    scene.refuses(&url, &CHANGES, &["row security hides", remedy]).await;
    scene.refuses(&url, &reads, &["row security hides", remedy]).await;
    let doctor = scene.run_at(&url, &["doctor"]).await;
    assert!(doctor.out.contains(&format!("remedy: {remedy}")), "{}", doctor.out);

    // What may be read, but never changed, would look like an idle queue to a worker too.
    scene.sql(&format!("create policy look on S._private_jobs for select to {role} using (true)")).await;
    scene.run_at(&url, &["jobs"]).await.ok();
    scene.refuses(&url, &[&["worker", "--once"]], &["row security", remedy]).await;
    let doctor = scene.run_at(&url, &["doctor"]).await;
    let told = "row security keeps this role from each update and delete in the table _private_jobs";
    assert!(doctor.out.contains(told), "{}", doctor.out);
    // A policy for somebody else opens nothing.
    scene.sql("create policy change on S._private_jobs to pg_monitor using (true)").await;
    scene.refuses(&url, &[&["worker", "--once"]], &["row security", remedy]).await;
    scene.sql("create policy all_may on S._private_jobs using (true)").await;
    assert!(scene.run_at(&url, &["worker", "--once"]).await.ok().starts_with("1 job done"));
    scene.sql(&format!("reassign owned by {role} to postgres; drop owned by {role}; drop role {role}")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_missing_is_told_whatever_language_the_server_speaks() {
    let scene = scene().await;
    let Some(server) = Server::german().await else {
        eprintln!("no German locale can be made here (the package locales); the server's language is left untested");
        return;
    };
    let admin = PgPool::connect(&server.url("postgres", "postgres")).await.expect("connect");
    let sql = async |text: &str| common::support::sql(&admin, "", text).await;
    sql("create role poor login; create role owner").await;
    sql("create database app").await;
    let told = sqlx::raw_sql("select * from gone").execute(&admin).await.expect_err("no such table").to_string();
    assert!(told.contains("existiert nicht"), "{told}");
    let url = server.url("poor", "app");

    let worker: [&[&str]; 1] = [&["worker", "--once"]];
    scene.refuses(&url, &worker, &["run: grant create on database \"app\" to \"poor\";"]).await;
    scene.run_at(&server.url("postgres", "app"), &["migrate"]).await.ok();
    let usage = "run: grant usage on schema \"graphile_worker\" to \"poor\";";
    scene.refuses(&url, &worker, &[usage]).await;

    let app = PgPool::connect(&server.url("postgres", "app")).await.expect("connect");
    let sql = async |text: &str| common::support::sql(&app, "", text).await;
    sql(
        "grant usage on schema graphile_worker to poor; grant select on all tables in schema graphile_worker to poor; \
         alter role poor bypassrls; grant insert, update on graphile_worker.backfill_pools to poor",
    )
    .await;
    let insert = "run: grant insert, update, delete on \"graphile_worker\".\"_private_job_queues\" to \"poor\";";
    scene.refuses(&url, &worker, &[insert]).await;
    scene.refuses(&url, &[&["add", "t"]], &["run: grant insert on \"graphile_worker\".\"_private_job_queues\""]).await;
    sql("grant insert, update, delete on all tables in schema graphile_worker to poor; alter role poor nobypassrls")
        .await;
    scene.refuses(&url, &worker, &["alter role \"poor\" bypassrls"]).await;

    // To upgrade takes the owner's rights, and the owner is named.
    sql("alter schema graphile_worker owner to owner; alter table graphile_worker._private_jobs owner to owner; \
         alter function graphile_worker.add_jobs owner to owner; delete from graphile_worker.migrations where id > 19; \
         grant create on schema graphile_worker to poor; alter role poor bypassrls")
    .await;
    scene.refuses(&url, &[&["migrate"]], &["grant \"owner\" to \"poor\"", "or migrate as"]).await;
}
