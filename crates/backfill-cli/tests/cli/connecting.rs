//! Which database and schema, with which password, and what is said when it cannot be reached.

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};

use crate::common::support::{node, soon};
use crate::common::{Ran, SCHEMA, Scene, binary};

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_is_neither_in_the_process_list_nor_in_output_or_log() {
    let scene = Scene::new().await;
    let url = scene.url.replacen("postgres@", "postgres:sekret%21@", 1);
    assert!(url.contains("sekret"), "{url}");
    for args in [
        vec!["--database-url".to_owned(), url.clone()],
        vec![format!("--database-url={url}")],
        vec!["-c".to_owned(), url.clone()],
        vec!["--connection".to_owned(), url.clone()],
    ] {
        let mut child = binary(scene.directory.path())
            .args(["stats", "--watch", "100ms", "-vvv", "--json"])
            .args(&args)
            .spawn()
            .expect("it runs");
        let pid = child.id().expect("it runs");
        let mut lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
        let mut told = String::new();
        for _ in 0..2 {
            told += &soon("it tells", lines.next_line()).await.expect("read").expect("a line");
        }
        let listed = std::fs::read(format!("/proc/{pid}/cmdline")).expect("read");
        let listed = String::from_utf8_lossy(&listed).replace('\0', " ");
        assert!(listed.contains("stats --watch 100ms") && !listed.contains("sekret"), "{listed}");
        child.start_kill().expect("kill");
        let mut log = String::new();
        child.stderr.take().expect("stderr").read_to_string(&mut log).await.expect("read");
        assert!(!log.is_empty() && !log.contains("sekret") && !told.contains("sekret"), "{log}");
    }
    for args in [
        ["--database-url", "postgres://u:sekret@127.0.0.1:9/x", "jobs"],
        ["--database-url", "postgres://u:sekret@[nonsense/x", "jobs"],
        ["--database-url", "mysql://u:sekret@127.0.0.1/x", "jobs"],
    ] {
        let ran = scene.run(&args).await;
        assert!(ran.status != Some(0) && !ran.err.contains("sekret"), "{}", ran.err);
    }
    // Nor where no URL is wanted, or behind letters of other options.
    let ran = scene.run(&["jobs", &url]).await;
    assert!(ran.status == Some(2) && !ran.err.contains("sekret"), "{}", ran.err);
    let ran: Ran = binary(scene.directory.path()).args(["jobs", "-vc", &url]).output().await.expect("it runs").into();
    assert_eq!(ran.ok(), "no jobs\n");
    // A key is what it is, whatever it looks like.
    scene.run(&["add", "t", "--key", &url]).await.ok();
    assert_eq!(scene.ask("select key from S._private_jobs").await, url);
    // Nor does --help show what the environment says.
    let mut command = scene.command(&["worker", "--help"]);
    let help = command.env("DATABASE_URL", &url).output().await.expect("it runs");
    assert!(!String::from_utf8_lossy(&help.stdout).contains("sekret"));
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn database_and_schema_come_from_arguments_or_the_environment() {
    let scene = Scene::empty().await;
    let list = |variables: Vec<(&'static str, String)>, args: Vec<&'static str>| {
        let mut command = binary(scene.directory.path());
        command.args(["migrate", "--json"]).args(args).envs(variables);
        async move {
            let output = command.output().await.expect("it runs");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
            (told["schema"].as_str().expect("a schema").to_owned(), told["from"].clone())
        }
    };
    let url = ("DATABASE_URL", scene.url.clone());
    assert_eq!(list(vec![url.clone()], vec![]).await, ("graphile_worker".to_owned(), Value::Null));
    assert_eq!(list(vec![url.clone()], vec![]).await, ("graphile_worker".to_owned(), json!(20)));
    let graphile = ("GRAPHILE_WORKER_SCHEMA", "a".to_owned());
    let ours = ("BACKFILL_SCHEMA", "b".to_owned());
    assert_eq!(list(vec![url.clone(), graphile.clone()], vec![]).await.0, "a");
    assert_eq!(list(vec![url.clone(), graphile.clone(), ours.clone()], vec![]).await.0, "b");
    assert_eq!(list(vec![url.clone(), graphile, ours], vec!["--schema", "Weird \"c\""]).await.0, "Weird \"c\"");
    // As psql finds it.
    let (host, database) = scene.url.rsplit_once('@').and_then(|(_, rest)| rest.split_once('/')).expect("a URL");
    let (host, port) = host.split_once(':').expect("a port");
    let variables = [("PGHOST", host), ("PGPORT", port), ("PGUSER", "postgres"), ("PGDATABASE", database)];
    let variables: Vec<(&'static str, String)> = variables.map(|(name, value)| (name, value.to_owned())).into();
    assert_eq!(list(variables, vec![]).await, ("graphile_worker".to_owned(), json!(20)));
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_are_added_to_a_schema_that_only_node_has_used() {
    let scene = Scene::empty().await;
    node::migrate("graphile-worker", &scene.url, SCHEMA).await;
    scene.run(&["add", "hello"]).await.ok();
    assert_eq!(scene.ask("select count(*) from S._private_jobs").await, "1");
    let created = scene.run(&["-s", "mistyped", "add", "hello"]).await;
    assert!(created.err.contains("created the schema \"mistyped\""), "{}", created.err);
    assert!(created.err.contains("has one)"), "and that there is another: {}", created.err);
    for (command, status) in [("stats", 1), ("doctor", 1)] {
        let unknown = scene.run(&["-s", "mistypd", command]).await;
        assert_eq!(unknown.status, Some(status));
        let told = unknown.err + &unknown.out;
        assert!(told.contains("did you mean \"mistyped\""), "{command}: {told}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreachable_database_is_told_at_once_with_its_reason() {
    let directory = TempDir::new().expect("a directory");
    let begun = std::time::Instant::now();
    let ran: Ran = binary(directory.path())
        .args(["-c", "postgres://127.0.0.1:1/x", "jobs"])
        .output()
        .await
        .expect("it runs")
        .into();
    assert_eq!(ran.status, Some(1));
    assert!(ran.err.contains("Connection refused"), "{}", ran.err);
    assert!(begun.elapsed() < std::time::Duration::from_secs(5), "nobody waits for what does not come");
}

/// Migrating is often the first thing that is tried.
#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_not_let_in_is_told_the_remedy_whatever_the_command() {
    let scene = Scene::empty().await;
    let role = scene.url.replacen("postgres@", "nobody_of_that_name@", 1);
    let (server, _) = scene.url.rsplit_once('/').expect("a URL with a database");
    let database = format!("{server}/no_database_of_that_name");
    let encryption = format!("{}?sslmode=require", scene.url);
    for command in [&["migrate"][..], &["stats"], &["add", "t"], &["doctor"]] {
        for (url, remedy) in [
            (&role, "let it log in (create role, pg_hba.conf), or name another"),
            (&database, "create it (createdb \"no_database_of_that_name\"), or name another"),
            (&encryption, "switch TLS on at the server (ssl = on)"),
        ] {
            let ran = scene.run(&[&["-c", url.as_str()], command].concat()).await;
            assert_eq!(ran.status, Some(1), "{command:?}");
            let told = ran.out + &ran.err;
            assert!(told.contains(remedy), "{command:?}: {told}");
        }
    }
}
