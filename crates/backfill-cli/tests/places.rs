//! Where jobs are kept: a URL decides.

mod common;

use common::support::soon;
use common::{Ran, Running, binary};
use tokio::process::Command;

/// The binary in a directory of its own, with no database named.
struct Alone {
    directory: tempfile::TempDir,
}

impl Alone {
    fn new() -> Self {
        Self { directory: tempfile::TempDir::new().expect("a directory") }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = binary(self.directory.path());
        command.args(args);
        command
    }

    async fn run(&self, args: &[&str]) -> Ran {
        soon("the binary ends", self.command(args).output()).await.expect("it runs").into()
    }

    fn task(&self, name: &str) {
        use std::os::unix::fs::PermissionsExt;
        let path = self.directory.path().join("tasks").join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        std::fs::write(&path, "#!/bin/sh\ncat\n").expect("write");
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("executable");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_no_database_named_jobs_are_in_the_users_own_file() {
    let alone = Alone::new();
    let none = alone.run(&["jobs"]).await;
    assert_eq!(none.status, Some(1), "{}", none.err);
    assert!(
        none.err.contains("has no job queue in it, or not all of it; run `backfill migrate`, or add a job"),
        "{}",
        none.err
    );
    let added = alone.run(&["add", "hello", "{}"]).await;
    let file = alone.directory.path().join("data/backfill/jobs.db");
    assert!(added.err.contains(&format!("the SQLite file {}", file.display())), "{}", added.err);
    assert!(
        added.err.contains("DATABASE_URL=postgres://") && added.err.contains("backfill move --to"),
        "{}",
        added.err
    );
    assert_eq!(added.ok(), "added job 1\n");
    assert!(file.exists());
    alone.task("hello");
    assert_eq!(alone.run(&["worker", "--once"]).await.ok(), "1 job done, 0 attempts failed\n");
    assert_eq!(alone.run(&["--json", "stats"]).await.json()["jobs"]["ready"], 0);
    let checked = alone.run(&["doctor"]).await.ok();
    assert!(checked.contains("fine     integrity: the file is whole"), "{checked}");
    assert!(alone.run(&["migrate"]).await.ok().contains("jobs.db is at version 8 already"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_works_on_a_file() {
    let alone = Alone::new();
    let run = |args: &'static str| {
        let mut command = alone.command(&args.split(' ').collect::<Vec<_>>());
        command.env("DATABASE_URL", "sqlite://jobs.db");
        async move { Ran::from(soon("it ends", command.output()).await.expect("it runs")) }
    };
    assert_eq!(run("add mail --queue q --key k").await.ok(), "added job 1\n");
    assert_eq!(run("add mail --in 1h").await.ok(), "added job 2\n");
    assert_eq!(run("discard 1 --reason no").await.ok(), "discarded 1\n");
    assert_eq!(run("run-now 1").await.ok(), "rescheduled 1\n");
    assert_eq!(run("reschedule 2 --priority 7").await.ok(), "rescheduled 2\n");
    assert!(run("job 2").await.ok().contains("priority    7"));
    assert_eq!(run("jobs --json --queue q").await.json()[0]["id"], 1);
    assert_eq!(run("queues --json").await.json()[0]["name"], "q");
    assert_eq!(run("tasks --json").await.json()[0]["name"], "mail");
    run("workers").await.ok();
    run("crontabs").await.ok();
    run("remove k").await.ok();
    assert_eq!(run("complete 2").await.ok(), "completed 2\n");
    assert_eq!(run("--json cleanup --dead --tasks --queues").await.json()["queues"], 1);
    let refused = run("jobs --schema s").await;
    assert_eq!(refused.status, Some(2));
    assert!(refused.err.contains("only PostgreSQL has schemas"), "{}", refused.err);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_orderly_end_of_a_command_leaves_the_file_alone() {
    let alone = Alone::new();
    alone.task("t");
    let files = || {
        let entries = std::fs::read_dir(alone.directory.path()).expect("a directory");
        let mut names: Vec<_> = entries.map(|entry| entry.expect("an entry").file_name()).collect();
        names.retain(|name| name.to_string_lossy().contains(".db"));
        names.sort_unstable();
        names
    };
    let command = |args: &str| {
        let mut command = alone.command(&args.split(' ').collect::<Vec<_>>());
        command.env("DATABASE_URL", "sqlite://jobs.db");
        command
    };
    for (args, status) in [
        ("migrate", 0),
        ("add t --key k", 0),
        ("jobs", 0),
        ("job 77", 1),
        ("stats", 0),
        ("doctor", 0),
        ("discard 1", 0),
        ("run-now 1", 0),
        ("worker --once", 0),
        ("cleanup --tasks", 0),
        ("add bad {", 2),
    ] {
        let ran = Ran::from(soon("it ends", command(args).output()).await.expect("it runs"));
        assert_eq!((ran.status, files()), (Some(status), vec!["jobs.db".into()]), "{args}: {}", ran.err);
    }
    let mut worker = Running::start(command("worker"));
    worker.logs("serving").await;
    // The worker's own log stays beside it.
    soon("it ends", command("add t").output()).await.expect("it runs");
    worker.logs("the job is done").await;
    assert_eq!(files(), ["jobs.db", "jobs.db-shm", "jobs.db-wal"]);
    worker.signal("TERM").await;
    assert_eq!(worker.ended().await, Some(0));
    assert_eq!(files(), ["jobs.db"]);
    Ran::from(command("add t").output().await.expect("it runs")).ok();
    Ran::from(command("move --from sqlite://jobs.db --to sqlite://moved.db").output().await.expect("it runs")).ok();
    assert_eq!(files(), ["jobs.db", "moved.db"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_may_only_be_read_is_told_as_that() {
    use std::os::unix::fs::PermissionsExt;
    let alone = Alone::new();
    let file = alone.directory.path().join("jobs.db");
    let program = alone.directory.path().join("backfill");
    std::fs::copy(env!("CARGO_BIN_EXE_backfill"), &program).expect("copy");
    let run = |program: &std::path::Path, args: &'static str| {
        let mut command = Command::new(program);
        command.args(args.split(' ')).current_dir(alone.directory.path()).env("DATABASE_URL", "sqlite://jobs.db");
        // Nothing is forbidden to root, so it is nobody then.
        if rustix::process::geteuid().is_root() {
            command.uid(65534).gid(65534);
        }
        async move { Ran::from(soon("it ends", command.output()).await.expect("it runs")) }
    };
    let allow = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("permissions");
    };
    allow(alone.directory.path(), 0o777);
    run(&program, "add t --key k").await.ok();
    let doctor = run(&program, "doctor").await.ok();
    assert!(doctor.contains("fine     writing: "), "{doctor}");
    alone.task("t");
    allow(&file, 0o444);
    for command in ["worker --once", "add t", "discard 1", "remove k", "reschedule 1 --in 1s", "cleanup --dead"] {
        let refused = run(&program, command).await;
        assert_eq!(refused.status, Some(1), "{command}: {}{}", refused.out, refused.err);
        assert!(
            refused.err.contains("make the file, and the directory that it is in, writable"),
            "{command}: {}",
            refused.err
        );
    }
    let doctor = run(&program, "doctor").await;
    assert_eq!(doctor.status, Some(1), "{}", doctor.out);
    assert!(doctor.out.contains("found    writing: jobs cannot be added or run here"), "{}", doctor.out);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_held_by_nobody_or_dated_ahead_in_a_file_is_found() {
    let alone = Alone::new();
    let run = |args: &'static str| {
        let mut command = alone.command(&args.split(' ').collect::<Vec<_>>());
        command.env("DATABASE_URL", "sqlite://jobs.db");
        async move { Ran::from(soon("it ends", command.output()).await.expect("it runs")) }
    };
    run("add t").await.ok();
    let url = format!("sqlite://{}", alone.directory.path().join("jobs.db").display());
    let pool = sqlx::SqlitePool::connect(&url).await.expect("open");
    let sql = async |text: &'static str| {
        sqlx::raw_sql(text).execute(&pool).await.expect("sql");
    };
    for (breaks, says, remedy, mends) in [
        (
            "update backfill_jobs set locked_by = 'pool-gone', locked_at = 1",
            "found    locks: 1 jobs have been held for more than a minute by workers that are not registered",
            "backfill unlock pool-gone",
            "update backfill_jobs set locked_by = null, locked_at = null",
        ),
        (
            "insert into backfill_crontabs values ('daily', 1, 9000000000000000)",
            "found    times: dated ahead, so that nothing happens to them before then: the crontab entry daily",
            "set last_execution = null",
            "delete from backfill_crontabs",
        ),
        (
            "create trigger t before update on backfill_jobs when new.locked_by is not null begin select raise(ignore); end",
            "found    triggers: a trigger keeps 1 of 1 ready jobs from being taken (\"t\")",
            "let it ignore no update in which locked_by changes",
            "select 1",
        ),
    ] {
        sql(breaks).await;
        let doctor = run("doctor").await;
        assert!(doctor.status == Some(1) && doctor.out.contains(says) && doctor.out.contains(remedy), "{}", doctor.out);
        sql(mends).await;
        if says.contains("triggers") {
            // So does a run that finds nothing else to do.
            alone.task("t");
            let ran = run("worker --once").await;
            assert!(ran.err.contains("jobs are ready and cannot be taken: a trigger"), "{}{}", ran.out, ran.err);
            sql("drop trigger t").await;
        }
        run("doctor").await.ok();
    }
}

/// What a command says with these variables.
async fn with(alone: &Alone, variables: &[(&str, &str)], args: &[&str]) -> Ran {
    let mut command = alone.command(args);
    command.envs(variables.iter().copied());
    soon("it ends", command.output()).await.expect("it runs").into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_variable_that_is_set_and_empty_is_an_error() {
    let alone = Alone::new();
    alone.task("hello");
    for name in ["DATABASE_URL", "PGHOST", "PGSERVICE", "PGDATABASE"] {
        for command in
            [&["add", "hello"][..], &["worker", "--once"], &["jobs"], &["doctor"], &["move", "--to", "memory:"]]
        {
            let ran = with(&alone, &[(name, "")], command).await;
            assert_eq!(ran.status, Some(2), "{name} {command:?}: {}", ran.err);
            assert!(ran.err.contains(&format!("{name} is set and empty")), "{}", ran.err);
        }
    }
    assert!(!alone.directory.path().join("data").exists(), "no file was made");
    let by_option = with(&alone, &[], &["jobs", "-c", ""]).await;
    assert!(by_option.status == Some(2) && by_option.err.contains("the database URL is empty"), "{}", by_option.err);
    with(&alone, &[("DATABASE_URL", "")], &["add", "hello", "-c", "sqlite://jobs.db"]).await.ok();
    let schema = with(&alone, &[("BACKFILL_SCHEMA", "")], &["jobs", "-c", "postgres://u@h/d"]).await;
    assert!(schema.status == Some(2) && schema.err.contains("BACKFILL_SCHEMA is set and empty"), "{}", schema.err);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_variable_of_a_database_that_is_not_read_is_told() {
    let alone = Alone::new();
    let url = "postgres://u:sekret@h/d";
    for variables in [
        &[("POSTGRES_URL", url)][..],
        &[("PG_URL", url), ("APP_DB", url)],
        &[("POSTGRES_HOST", "h")],
        &[("PGPORT", "1")],
    ] {
        for args in [&["add", "hello"][..], &["--json", "--quiet", "add", "hello"]] {
            let ran = with(&alone, variables, args).await;
            for (name, _) in variables {
                assert!(ran.err.contains(name) && ran.err.contains("set DATABASE_URL"), "{name}: {}", ran.err);
            }
            assert!(!ran.err.contains("sekret"), "{}", ran.err);
            ran.ok();
        }
        let named = with(&alone, variables, &["-c", "sqlite://jobs.db", "add", "hello"]).await;
        assert!(!named.err.contains("DATABASE_URL"), "{}", named.err);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_on_the_users_own_file_says_so_loudly() {
    let alone = Alone::new();
    alone.task("hello");
    for args in [&["worker", "--once"][..], &["worker", "--once", "--quiet", "--json"]] {
        let ran = with(&alone, &[], args).await;
        let file = alone.directory.path().join("data/backfill/jobs.db");
        let says = format!("WARN no database is named, so this worker serves a private file, {}", file.display());
        assert!(ran.err.contains(&says), "{}", ran.err);
        ran.ok();
    }
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_file_names_the_database() {
    let (_admin, url) = common::support::database().await;
    let alone = Alone::new();
    let (_, rest) = url.split_once("://").expect("a URL");
    let (user, rest) = rest.split_once('@').expect("a user");
    let (server, database) = rest.split_once('/').expect("a database");
    let (host, port) = server.split_once(':').expect("a port");
    let file = alone.directory.path().join(".pg_service.conf");
    let text = format!("[jobs]\nhost={host}\nport={port}\nuser={user}\ndbname={database}\n");
    std::fs::write(&file, text).expect("write");
    // The user's own, in the home directory.
    let added = with(&alone, &[("PGSERVICE", "jobs")], &["add", "hello"]).await;
    assert!(added.err.contains("created the schema \"graphile_worker\""), "{}", added.err);
    added.ok();
    let elsewhere = alone.directory.path().join("pg_service.conf");
    std::fs::rename(&file, &elsewhere).expect("rename");
    let name = elsewhere.to_str().expect("UTF-8");
    let system = alone.directory.path().to_str().expect("UTF-8");
    for variables in
        [&[("PGSERVICE", "jobs"), ("PGSERVICEFILE", name)][..], &[("PGSERVICE", "jobs"), ("PGSYSCONFDIR", system)]]
    {
        assert_eq!(with(&alone, variables, &["--json", "jobs"]).await.json()[0]["task"], "hello");
    }
    let by_url = with(&alone, &[("PGSERVICEFILE", name)], &["--json", "jobs", "-c", "postgres:///?service=jobs"]).await;
    assert_eq!(by_url.json()[0]["task"], "hello");
    let none = with(&alone, &[("PGSERVICE", "job"), ("PGSERVICEFILE", name)], &["jobs"]).await;
    assert!(none.status == Some(2) && none.err.contains("the service \"job\" is in none of"), "{}", none.err);
}
