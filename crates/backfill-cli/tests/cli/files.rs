//! Adding jobs from files and streams.

use std::process::Stdio;

use serde_json::json;
use tokio::io::AsyncWriteExt;

use crate::common::Scene;
use crate::common::support::{soon, until};

#[cfg(target_os = "linux")]
#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_terminal_adding_a_file_shows_how_far_it_is() {
    let scene = Scene::new().await;
    scene.write("jobs", &"{\"task\": \"t\", \"payload\": [1, 2, 3]}\n".repeat(30_000));
    let shown = scene.run_on_a_terminal("add --from jobs").await.ok();
    assert!(shown.contains("checking ") && shown.contains("% of ") && shown.contains(" jobs, "), "{shown}");
    assert!(shown.contains("added 30000 jobs"), "{shown}");
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_jobs_is_looked_at_before_anything_is_added() {
    let scene = Scene::new().await;
    let good = r#"{"task":"t","payload":{"n":1},"key":"a"}
{"identifier":"t","runAt":"2030-01-01T00:00:00Z","maxAttempts":3,"queueName":"q"}

{"task":"t","key":"a","payload":{"n":2}}"#;
    scene.write("good", good);
    assert_eq!(scene.run(&["add", "--from", "good"]).await.ok(), "added 3 jobs\n");
    let jobs = scene.run(&["jobs", "--json"]).await.json();
    assert_eq!(jobs.as_array().map(Vec::len), Some(2), "the second job of a key takes the first one's place");
    assert_eq!(
        (&jobs[0]["payload"]["n"], &jobs[1]["queue"], &jobs[1]["max_attempts"]),
        (&json!(2), &json!("q"), &json!(3))
    );

    let many: String = "{\"task\":\"t\",\"payload\":1}\n".repeat(5_000);
    for (line, says) in [
        (
            "{\"task\":\"t\",\"prioritty\":3}",
            "line 5001 has an unknown field \"prioritty\"; did you mean \"priority\"?",
        ),
        ("{\"task\":\"\"}", "line 5001: task name \"\" must not be empty"),
        ("{\"task\":\"t\",\"run_at\":\"soon\"}", "line 5001 run_at \"soon\" is no time"),
        ("hello", "line 5001 is no job: expected value at column 1"),
    ] {
        scene.write("bad", &format!("{many}{line}\n"));
        let ran = scene.run(&["add", "--from", "bad"]).await;
        assert_eq!(ran.status, Some(1));
        assert!(ran.err.contains(says), "{}", ran.err);
        assert_eq!(scene.ask("select count(*) from S._private_jobs").await, "2", "nothing was added");
        // A stream cannot be looked at twice, so what was good is in, and it is said how far.
        let ran = scene.run_with(&["add", "--from", "-"], format!("{many}{line}\n").as_bytes()).await;
        assert_eq!(ran.status, Some(1));
        assert!(ran.err.contains(says), "{}", ran.err);
        assert!(ran.err.contains(" jobs were added, those up to line "), "{}", ran.err);
        let rest = scene.ask("select count(*) >= 5002 from S._private_jobs").await;
        assert_eq!(rest, "true", "{}", ran.err);
        scene
            .sql("delete from S._private_jobs where task_id is not null and key is null and run_at < '2029-01-01'")
            .await;
    }
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_stream_of_jobs_is_added_in_constant_memory() {
    let scene = Scene::new().await;
    let mut child = scene.command(&["add", "--from", "-", "--json"]).stdin(Stdio::piped()).spawn().expect("it runs");
    let mut stdin = child.stdin.take().expect("stdin");
    // 60 MB.
    let payload = "x".repeat(1_000);
    for n in 0..60_000 {
        stdin
            .write_all(format!("{{\"task\":\"t\",\"payload\":[{n},\"{payload}\"]}}\n").as_bytes())
            .await
            .expect("write");
    }
    until("nearly all is added", || async {
        scene.ask("select count(*) >= 50000 from S._private_jobs").await == "true"
    })
    .await;
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id().expect("it runs"))).expect("read");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().expect("a number");
    drop(stdin);
    let output = soon("it ends", child.wait_with_output()).await.expect("it runs");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "{\"added\":60000}\n");
    assert!(peak < 60_000, "{peak} kB at the peak");
    assert_eq!(scene.ask("select count(*) from S._private_jobs").await, "60000");
}
