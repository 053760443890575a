//! What people get wrong, and what a program must not do for it.

mod common;

use common::{SCHEMA, Scene};
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_that_is_not_understood_is_left_alone_by_every_command() {
    let scene = Scene::new().await;
    scene.run(&["add", "t"]).await.ok();
    scene.sql("insert into S.migrations (id, breaking) values (999, true)").await;
    let there = format!("sqlite://{}", scene.path("there.db").display());
    for command in [
        &["complete", "1"][..],
        &["discard", "1"],
        &["run-now", "1"],
        &["remove", "k"],
        &["cleanup", "--tasks", "--queues"],
        &["move", "--to", &there],
        &["jobs"],
        &["add", "t"],
    ] {
        let ran = scene.run(command).await;
        assert!(ran.status == Some(1) && ran.err.contains("999"), "{command:?}: {}{}", ran.out, ran.err);
    }
    assert_eq!(scene.ask("select count(*) from S._private_jobs").await, "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wish_for_encryption_is_never_passed_over() {
    let scene = Scene::new().await;
    // The server speaks no TLS.
    for query in ["?ssl=true", "?sslmode=no-verify", "?sslmode=require"] {
        let ran = scene.run(&["jobs", "--database-url", &format!("{}{query}", scene.url)]).await;
        assert!(ran.status == Some(1) && ran.err.contains("TLS"), "{query}: {}", ran.err);
    }
    for (mode, status, says) in [
        ("verify_full", Some(2), "PGSSLMODE is \"verify_full\""),
        ("no-verify", Some(1), "TLS"),
        ("prefer", Some(0), ""),
    ] {
        let output = scene.command(&["jobs"]).env("PGSSLMODE", mode).output().await.expect("it runs");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == status && told.contains(says), "{mode}: {told}");
    }
    let output = scene.command(&["jobs"]).env("PGPORT", "many").output().await.expect("it runs");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && told.contains("PGPORT is \"many\""), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wish_for_security_that_cannot_be_met_is_refused_by_every_way_in() {
    let scene = Scene::new().await;
    for wish in ["channel_binding=require", "gssencmode=require", "require_auth=scram-sha-256", "ssl_mode=require"] {
        let ran = scene.run(&["jobs", "-c", &format!("{}?{wish}", scene.url)]).await;
        let name = wish.split('=').next().expect("a name");
        assert!(ran.status == Some(2) && ran.err.contains(name), "{wish}: {}", ran.err);
    }
    for (name, value) in [("PGGSSENCMODE", "require"), ("PGCHANNELBINDING", "require"), ("PGREQUIREPEER", "postgres")] {
        let output = scene.command(&["jobs"]).env(name, value).output().await.expect("it runs");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && told.contains(name), "{name}: {told}");
    }
    let several = scene.run(&["jobs", "-c", "postgres://u:sekret@a:1,b:2/d"]).await;
    assert!(several.status == Some(2) && several.err.contains("names several hosts (a,b)"), "{}", several.err);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parameters_of_other_drivers_are_told_by_a_worker_once_and_by_nothing_else() {
    let scene = Scene::new().await;
    scene.task("t", "#!/bin/sh\n");
    let url = format!("{}?schema=public&pgbouncer=true&connection_limit=5&target_session_attrs=read-write", scene.url);
    for command in [&["jobs"][..], &["stats"], &["add", "t"], &["doctor"]] {
        let ran = scene.run(&[command, &["-c", &url]].concat()).await;
        assert_eq!(ran.err, "", "{command:?}");
    }
    let worker = scene.run(&["worker", "--once", "-c", &url]).await;
    for name in ["schema", "pgbouncer", "connection_limit", "target_session_attrs"] {
        assert_eq!(worker.err.matches(&format!("{name} in the database URL")).count(), 1, "{}", worker.err);
    }
    let unknown = scene.run(&["jobs", "-c", &format!("{}?aplication_name=sekret", scene.url)]).await;
    assert!(unknown.err.contains("did you mean \"application_name\"?"), "{}", unknown.err);
    assert!(!unknown.err.contains("sekret"), "{}", unknown.err);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_url_in_the_wrong_place_shows_no_password() {
    let scene = Scene::new().await;
    let url = "postgres://u:sekret@h/db";
    for command in
        [&["--schema", url, "jobs"][..], &["-s", url, "worker"], &["jobs", "--limit", url], &["worker", "--tasks", url]]
    {
        let ran = scene.run(command).await;
        assert!(ran.status != Some(0) && !ran.err.contains("sekret") && !ran.out.contains("sekret"), "{}", ran.err);
    }
    let schema = scene.run(&["--schema", url, "jobs"]).await;
    assert!(schema.status == Some(2) && schema.err.contains("--database-url"), "{}", schema.err);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_a_file_of_jobs_is_told_with_its_line() {
    let scene = Scene::new().await;
    let marked = "\u{feff}{\"task\": \"t\", \"run_at\": \"2000-01-01 05:00:00+00\"}\n{\"task\": \"t\"}\n";
    scene.run_with(&["add", "--from", "-"], marked.as_bytes()).await.ok();
    for (input, says) in [
        (&br#"{"task": "t", "run_at": "2026-01-01", "in": "2s"}"#[..], "line 1 has both run_at and in"),
        (b"\n{\"task\": \"\xff\"}", "line 2 is no UTF-8"),
    ] {
        let ran = scene.run_with(&["add", "--from", "-"], input).await;
        assert!(ran.status == Some(1) && ran.err.contains(says), "{}", ran.err);
    }
    // The same from a file, which is looked through before anything is added.
    let array = scene.write(
        "jobs.json",
        "[\n  {\"task\": \"a\"},\n  {\n    \"task\": \"b\",\n    \"payload\": {\"x\": [1, 2]}\n  }\n]\n",
    );
    let added = scene.run(&["add", "--from", array.to_str().expect("UTF-8")]).await;
    assert_eq!(added.ok(), "added 2 jobs\n");
    assert_eq!(scene.run(&["--json", "jobs", "--task", "b"]).await.json()[0]["payload"], json!({ "x": [1, 2] }));
    let broken = scene.write("broken.json", "[{\"task\": \"c\"},\n{\"task\": 7}]");
    let refused = scene.run(&["add", "--from", broken.to_str().expect("UTF-8")]).await;
    assert!(refused.err.contains("line 2 is no job") && refused.err.contains("nothing was added"), "{}", refused.err);
    let directory = scene.run(&["add", "--from", "."]).await;
    assert!(directory.err.contains("could not read .: it is a directory"), "{}", directory.err);
    let large = scene.run(&["add", "t", "\"0123456789\"", "--max-payload-bytes", "5"]).await;
    assert!(large.status == Some(2) && large.err.contains("raise the cap with --max-payload-bytes"), "{}", large.err);
    scene.run(&["add", "send_mail"]).await.ok();
    let near = scene.run(&["add", "sendmail"]).await;
    assert!(near.err.contains("note: the task \"sendmail\" is new; did you mean \"send_mail\"?"), "{}", near.err);
    let nowhere = scene.run(&["move", "--to", "memory:"]).await;
    assert!(nowhere.status == Some(2) && nowhere.err.contains("--to is memory:"), "{}", nowhere.err);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_things_are_as_people_expect_them() {
    let scene = Scene::new().await;
    for _ in 0..3 {
        scene.run(&["add", "t"]).await.ok();
    }
    let page = scene.run(&["jobs", "--json", "--limit", "2"]).await;
    assert!(page.err.contains("there are more; go on with --after 2"), "{}", page.err);
    assert_eq!(page.json().as_array().map(Vec::len), Some(2));
    scene.run(&["discard", "1", "--reason", ""]).await.ok();
    assert_eq!(scene.run(&["job", "1", "--json"]).await.json()["last_error"], "Manually marked as failed");
    let far = scene.run(&["reschedule", "2", "--in", "1000y"]).await;
    assert!(far.status == Some(2) && far.err.contains("within a hundred years"), "{}", far.err);
    let count = scene.ask("select count(*) from S._private_jobs").await;
    for far in ["101y", "500000000y"] {
        let added = scene.run(&["add", "t", "--in", far]).await;
        assert!(added.status == Some(2) && added.err.contains("within a hundred years"), "{}", added.err);
    }
    assert_eq!(scene.ask("select count(*) from S._private_jobs").await, count);
    scene.run(&["add", "t", "--key", "k"]).await.ok();
    scene
        .sql("update S._private_jobs set locked_at = now(), locked_by = 'somebody', attempts = 1 where key = 'k'")
        .await;
    assert_eq!(
        scene.run(&["remove", "k"]).await.ok(),
        "job 4 is running; it keeps running, without its key and without further attempts\n"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_arguments_are_data_or_refused() {
    let scene = Scene::new().await;
    for text in [
        "'; drop schema graphile_worker cascade; --",
        "\"; delete from _private_jobs; --",
        "graphile_worker._private_jobs",
        "$$ $body0$ $1 %s {0} ${HOME} `id`",
        "\\' \\\" \\u0000",
        "-c",
        "--help",
        "\u{202e}rtl \u{1f980} ünï",
        "line\nbreak\ttab",
        " ",
    ] {
        let (queue, key, flag) = (format!("--queue={text}"), format!("--key={text}"), format!("--flag={text}"));
        let payload = json!(text).to_string();
        let added = scene.run(&["add", "--json", &queue, &key, &flag, "--", text, &payload]).await.json();
        for name in ["task", "queue", "key"] {
            assert_eq!(added[name], text, "{name}");
        }
        let id = added["id"].to_string();
        let shown = scene.run(&["job", &id, "--json"]).await.json();
        assert_eq!((&shown["payload"], &shown["flags"]), (&json!(text), &json!([text])));
        let reason = format!("--reason={text}");
        assert_eq!(scene.run(&["discard", "--json", &reason, &id]).await.json()["changed"][0]["last_error"], text);
        let task = format!("--task={text}");
        assert_eq!(scene.run(&["jobs", "--json", &task, &queue, &key]).await.json().as_array().map(Vec::len), Some(1));
        // What people see has no line breaks or control characters of others in it.
        assert_eq!(scene.run(&["jobs", &task]).await.ok().lines().count(), 2);
        scene.run(&["remove", "--", text]).await.ok();
        let other = scene.run(&[&format!("--schema={text}"), "stats"]).await;
        assert!(other.status == Some(1) && other.err.contains("has no job queue in it"), "{}", other.err);
        let hints = [format!("({SCHEMA:?} has one)"), format!("did you mean {SCHEMA:?}")];
        assert!(hints.iter().any(|hint| other.err.contains(hint)), "{}", other.err);
        let pool = scene.run(&["unlock", "--", text]).await;
        assert_eq!(pool.status, Some(1), "{}", pool.err);
    }
    assert_eq!(scene.run(&["doctor"]).await.status, Some(0), "the schema is whole");
}
