//! What a program is given, and what is kept of how it ended.

use backfill::JobSpec;
use serde_json::Value;

use crate::common::support::{node, soon, until};
use crate::common::{Ran, SCHEMA, Scene};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_gets_what_nodes_worker_would_give_it() {
    let scene = Scene::new().await;
    let script = "#!/bin/sh\n{ cat; echo; env | grep ^GRAPHILE_WORKER_ | sort; } > \"$OUT.$GRAPHILE_WORKER_JOB_ID\"\n";
    scene.task("show", script);
    scene.task("deep/er/show.test.sh", script);
    scene
        .run(&[
            "add",
            "show",
            r#"{"a": [1.0, "é"], "b":null}"#,
            "--key",
            "k",
            "--priority",
            "-3",
            "--max-attempts",
            "7",
        ])
        .await
        .ok();
    scene.run(&["add", "deep/er/show"]).await.ok();
    scene.run(&["add", "show"]).await.ok();
    // The first two by us, the third by Node.
    let ours = scene.path("ours");
    let mut command = scene.command(&["worker", "--once"]);
    let output = command.env("OUT", &ours).env("GRAPHILE_WORKER_JOB_KEY", "leaks").output().await.expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let shown = scene.read("ours.1");
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(lines[0], r#"{"payload":{"a": [1.0, "é"], "b":null}}"#);
    let run_at = lines.iter().find_map(|line| line.strip_prefix("GRAPHILE_WORKER_JOB_RUN_AT=")).expect("it is there");
    assert!(run_at.len() == 24 && run_at.ends_with('Z') && run_at.as_bytes()[19] == b'.', "{run_at}");
    let rest: Vec<&&str> = lines[1..].iter().filter(|line| !line.contains("RUN_AT")).collect();
    assert_eq!(
        rest,
        [
            &"GRAPHILE_WORKER_JOB_ATTEMPTS=1",
            &"GRAPHILE_WORKER_JOB_ID=1",
            &"GRAPHILE_WORKER_JOB_KEY=k",
            &"GRAPHILE_WORKER_JOB_MAX_ATTEMPTS=7",
            &"GRAPHILE_WORKER_JOB_PRIORITY=-3",
            &"GRAPHILE_WORKER_PAYLOAD_FORMAT=json",
            &"GRAPHILE_WORKER_TASK_IDENTIFIER=show",
        ]
    );
    assert!(scene.read("ours.2").contains("TASK_IDENTIFIER=deep/er/show"));
    assert!(
        !scene.read("ours.3").contains("JOB_KEY"),
        "a job without a key has none from the worker's own environment"
    );

    // Node's worker gives the same to the same program.
    let id = scene
        .client()
        .await
        .add(JobSpec::new("show", serde_json::json!({ "a": [1, "é"] })).key("k2"))
        .await
        .expect("add")
        .id;
    let mut theirs = tokio::process::Command::new(std::env::var_os("BACKFILL_TEST_NODE").expect("node"));
    theirs
        .arg(node::directory().join("node_modules/graphile-worker/dist/cli.js"))
        .args(["-c", &scene.url, "-s", SCHEMA, "--once"])
        .current_dir(scene.directory.path())
        .env("OUT", scene.path("theirs"));
    let output = theirs.output().await.expect("node runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let theirs = scene.read(&format!("theirs.{id}"));
    let names = |text: &str| -> Vec<String> {
        text.lines().skip(1).filter_map(|line| Some(line.split_once('=')?.0.to_owned())).collect()
    };
    assert_eq!(names(&theirs), names(&shown));
    let value = |text: &str| serde_json::from_str::<Value>(text.lines().next().expect("a line")).expect("JSON");
    assert_eq!(value(&theirs), serde_json::json!({ "payload": { "a": [1, "é"] } }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_may_read_a_line_and_leave_something_in_the_background() {
    let scene = Scene::new().await;
    let script = "#!/bin/sh\nread -r job\necho \"$job\" >line\n\
                  (sleep 0.2; echo survived >later) >/dev/null 2>&1 </dev/null &\n";
    scene.task("t", script);
    // As from SQL, where payloads may be of many lines.
    scene.sql("select S.add_job('t', E'{\\n  \"to\":\\r\\n \"ada\"\\n}')").await;
    scene.run(&["worker", "--once"]).await.ok();
    assert_eq!(scene.read("line").trim_end(), r#"{"payload":{   "to":   "ada" }}"#);
    until("what it left lives on", || async { scene.path("later").exists() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_a_program_failed_is_kept_as_last_error() {
    let scene = Scene::new().await;
    scene.task("status", "#!/bin/sh\nfor n in $(seq 1 100); do echo \"line $n\" >&2; done; exit 3\n");
    scene.task("quiet", "#!/bin/sh\nexit 9\n");
    scene.task("killed", "#!/bin/sh\necho last words >&2; kill -KILL $$\n");
    scene.task("slow", "#!/bin/sh\necho begun >&2; sleep 1000\n");
    scene.task("stubborn", "#!/bin/sh\ntrap '' TERM; while :; do sleep 0.1; done\n");
    scene.task("deaf", "#!/bin/sh\nexec <&-\nexit 0\n");
    scene.task("lingers", "#!/bin/sh\nsleep 1001 & echo $! >left\n");
    scene.task("broken", "no program at all\n");
    scene.task("binary", "#!/bin/sh\nprintf 'a\\000b\\377' >&2; exit 1\n");
    for task in ["status", "quiet", "killed", "slow", "stubborn", "lingers", "broken", "binary"] {
        scene.run(&["add", task]).await.ok();
    }
    let big = format!("{{\"task\":\"deaf\",\"payload\":\"{}\"}}\n", "x".repeat(3_000_000));
    scene.run_with(&["add", "--from", "-"], big.as_bytes()).await.ok();
    let args = ["worker", "--once", "--timeout", "slow=200ms", "--timeout", "stubborn=200ms", "--retry", "fixed:1h"];
    let ran = scene.run(&args).await;
    let log = ran.err.clone();
    assert_eq!(ran.ok(), "2 jobs done, 7 attempts failed\n", "{log}");
    let error = async |task: &str| {
        scene.ask(&format!("select last_error from S._private_jobs where task_id = (select id from S._private_tasks where identifier = '{task}')")).await
    };
    let status = error("status").await;
    assert!(status.starts_with("exit status: 3: line 81\nline 82") && status.ends_with("line 100"), "{status}");
    assert_eq!(error("quiet").await, "exit status: 9");
    assert_eq!(error("killed").await, "signal: 9 (SIGKILL): last words");
    assert_eq!(error("slow").await, "ran longer than its timeout of 200ms (signal: 15 (SIGTERM)): begun");
    assert_eq!(error("stubborn").await, "ran longer than its timeout of 200ms (signal: 9 (SIGKILL))");
    assert!(error("broken").await.contains("could not be started"), "{}", error("broken").await);
    assert_eq!(error("binary").await, "exit status: 1: a\u{fffd}b\u{fffd}");
    assert_eq!(
        scene
            .ask("select run_at > now() + interval '50 minutes' from S._private_jobs where last_error like '%9'")
            .await,
        "true"
    );
    // What it printed is in the log, and nothing of what was ended is left running.
    assert!(log.contains("line 1") && log.contains("stream=\"stderr\"") && log.contains("task=status"), "{log}");
    let left = std::process::Command::new("pgrep").args(["-f", "^sleep 1000$"]).output().expect("pgrep");
    assert_eq!(String::from_utf8_lossy(&left.stdout), "");
    // But for what a program left when it ended by itself, which does not keep its job waiting.
    let left = scene.read("left");
    let ended = std::process::Command::new("kill").arg(left.trim()).status().expect("kill");
    assert!(ended.success(), "it lived on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_started_says_what_it_lacks() {
    let scene = Scene::new().await;
    scene.task("bare", "echo hello\n");
    scene.task("lost", "#!/no/such/interpreter\n");
    for (task, lacks) in
        [("bare", "a first line such as #!/bin/sh"), ("lost", "the interpreter that its first line names")]
    {
        scene.run(&["add", task]).await.ok();
        scene.run(&["worker", "--once"]).await.ok();
        let error = scene.ask(&format!("select last_error from S._private_jobs where task_id = (select id from S._private_tasks where identifier = '{task}')")).await;
        assert!(error.contains(lacks), "{error}");
    }
    let none = scene.run(&["worker", "--once", "--timeout", "bare=0s"]).await;
    assert!(none.status == Some(2) && none.err.contains("the timeout of the task \"bare\" is 0"), "{}", none.err);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_much_that_a_program_printed_the_end_is_kept() {
    let scene = Scene::new().await;
    // 20 lines of 5 kB, more than a job keeps; the last one says why.
    let script = "#!/bin/sh\nline=$(printf '%05000d' 0)\nfor n in $(seq 1 20); do echo \"$n $line\" >&2; done\n\
                  echo 'the reason: \u{e9}' >&2; exit 3\n";
    scene.task("long", script);
    scene.run(&["add", "long"]).await.ok();
    scene.run(&["worker", "--once"]).await.ok();
    let error = scene.ask("select last_error from S._private_jobs").await;
    assert!(error.starts_with("exit status: 3: \u{2026}0") && error.ends_with("0\nthe reason: \u{e9}"), "{error}");
    assert!(error.len() > 30_000, "{}", error.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_do_not_get_the_password_unless_they_are_meant_to() {
    let scene = Scene::new().await;
    scene.task("show", "#!/bin/sh\nenv > seen\n");
    let url = scene.url.replacen("postgres@", "postgres:sekret-a@", 1);
    let secrets =
        ["DATABASE_URL=", "PGPASSWORD=sekret-b", "PGPASSFILE=/sekret-c", "OTHER_URL=postgres://o:sekret-d@h/x"];
    let run = async |args: &[&str]| {
        scene.run(&["add", "show"]).await.ok();
        let mut command = scene.command(&[&["worker", "--once"], args].concat());
        command.env("DATABASE_URL", &url).env("PGPASSWORD", "sekret-b").env("PGPASSFILE", "/sekret-c");
        command.env("OTHER_URL", "postgres://o:sekret-d@h/x").env("PGAPPNAME", "mine").env("KEPT", "kept");
        let ran: Ran = soon("it ends", command.output()).await.expect("it runs").into();
        assert!(!ran.err.contains("sekret"), "{}", ran.err);
        let log = ran.err.clone();
        ran.ok();
        (scene.read("seen"), log)
    };
    let (seen, log) = run(&[]).await;
    assert!(!seen.contains("sekret") && !seen.contains("\nDATABASE_URL="), "{seen}");
    assert!(seen.contains("KEPT=kept") && seen.contains("PGAPPNAME=mine"), "{seen}");
    assert!(log.contains("DATABASE_URL") && log.contains("OTHER_URL") && log.contains("--pass-secrets"), "{log}");
    let (seen, log) = run(&["--pass-secrets"]).await;
    assert!(secrets.iter().all(|secret| seen.contains(secret)) && seen.contains("sekret-a"), "{seen}");
    assert!(!log.contains("--pass-secrets"), "{log}");
    // A command line's password is nobody's, even then.
    scene.run(&["add", "show"]).await.ok();
    let mut command = scene.command(&["worker", "--once", "--pass-secrets", "--database-url", &url]);
    assert!(command.env_remove("DATABASE_URL").output().await.expect("it runs").status.success());
    assert!(!scene.read("seen").contains("sekret-a"));
}
