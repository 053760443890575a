//! `backfill worker`: programs as tasks, signals, settings, as processes.

mod common;

use std::time::{Duration, Instant};

use backfill::JobSpec;
use common::support::{node, soon, until};
use common::{Ran, Running, SCHEMA, Scene};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

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
async fn a_worker_says_what_it_serves_and_ends_in_an_orderly_way() {
    let scene = Scene::empty().await;
    scene.task("wait", "#!/bin/sh\ntouch \"$OUT\"; sleep 1; exit 0\n");
    scene.task("b", "#!/bin/sh\n");
    scene.write("crontab", "0 0 1 1 * b ?id=x\n0 0 1 1 * b");
    let mut command = scene.command(&["worker", "-j", "3", "--prefetch", "10", "--forbidden-flags", "no,never"]);
    command.env("OUT", scene.path("begun"));
    let mut worker = Running::start(command);
    let says = worker.logs("serving").await;
    for part in [
        "storage=PostgreSQL, schema \"graphile_worker\"",
        "revision=20",
        "tasks=\"b wait\"",
        "crontab_entries=2",
        "concurrency=3",
        "wakeups=\"listen and poll\"",
    ] {
        assert!(says.contains(part), "{part} in {says}");
    }
    assert!(!says.contains('\x1b'), "no colours off a terminal");
    scene.run(&["add", "b", "--flag", "never"]).await.ok();
    scene.run(&["add", "wait"]).await.ok();
    until("the job has begun", || async { scene.path("begun").exists() }).await;
    assert_eq!(scene.run(&["workers", "--json"]).await.json()[0]["jobs"], 1);
    // As from a terminal: the programs are not in its process group, and go on.
    worker.signal("INT").await;
    assert_eq!(worker.ended().await, Some(0), "{}", worker.log);
    assert!(worker.log.contains("the job is done"), "{}", worker.log);
    let jobs = scene.run(&["jobs", "--json"]).await.json();
    assert_eq!((jobs.as_array().map(Vec::len), &jobs[0]["flags"][0]), (Some(1), &Value::from("never")));
    let known = scene.run(&["crontabs", "--json"]).await.json();
    assert_eq!((&known[0]["identifier"], &known[1]["identifier"]), (&Value::from("b"), &Value::from("x")));
    assert_eq!(scene.run(&["workers"]).await.ok(), "no workers\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_that_run_at_the_end_are_asked_and_then_killed() {
    let scene = Scene::new().await;
    scene.task(
        "polite",
        "#!/bin/sh\ntrap 'echo asked >&2; exit 4' TERM\ntouch \"$OUT.polite\"\nwhile :; do sleep 0.05; done\n",
    );
    scene.task("stubborn", "#!/bin/sh\ntrap '' TERM\ntouch \"$OUT.stubborn\"\nwhile :; do sleep 0.05; done\n");
    scene.run(&["add", "polite"]).await.ok();
    scene.run(&["add", "stubborn"]).await.ok();
    let mut command =
        scene.command(&["worker", "--cancel-after", "100ms", "--grace", "1m", "--second-signal-after", "0s"]);
    command.env("OUT", scene.path("begun"));
    let mut worker = Running::start(command);
    until("both have begun", || async { scene.path("begun.polite").exists() && scene.path("begun.stubborn").exists() })
        .await;
    let begin = Instant::now();
    worker.signal("TERM").await;
    worker.logs("exit status: 4").await;
    worker.signal("TERM").await;
    assert_eq!(worker.ended().await, Some(0), "{}", worker.log);
    assert!(begin.elapsed() < Duration::from_secs(30), "a second signal forces the end");
    let errors = scene.ask("select last_error from S._private_jobs order by id").await;
    assert!(
        errors.starts_with("the worker shut down before the job ended: exit status: 4: ")
            && errors.ends_with("asked;the worker shut down before the job ended"),
        "{errors}"
    );
    let left = std::process::Command::new("pgrep")
        .args(["-f", scene.directory.path().to_str().expect("UTF-8")])
        .output()
        .expect("pgrep");
    assert_eq!(String::from_utf8_lossy(&left.stdout), "", "nothing is left running");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_ends_a_run_that_would_end_when_idle_and_its_programs() {
    let scene = Scene::new().await;
    scene.task("slow", "#!/bin/sh\ntouch \"$OUT\"\nsleep 3600\n");
    scene.run(&["add", "slow"]).await.ok();
    let mut command = scene.command(&["worker", "--once", "--cancel-after", "100ms"]);
    command.env("OUT", scene.path("begun"));
    let mut worker = Running::start(command);
    until("it has begun", || async { scene.path("begun").exists() }).await;
    worker.signal("TERM").await;
    assert_eq!(worker.ended().await, Some(0), "{}", worker.log);
    assert_eq!(scene.ask("select locked_by is null and attempts = 0 from S._private_jobs").await, "true");
    assert_eq!(scene.run(&["workers"]).await.ok(), "no workers\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_waits_for_a_database_that_is_away_unless_told_to_fail() {
    let scene = Scene::new().await;
    scene.task("hello", "#!/bin/sh\n");
    let nowhere = ["-c", "postgres://postgres@127.0.0.1:1/x", "worker"];
    let mut worker = Running::start(scene.command(&nowhere));
    for _ in 0..3 {
        worker.logs("the database cannot be reached; trying again").await;
    }
    worker.child.kill().await.expect("kill");
    let unknown = ["-c", "postgres://postgres@no-such-host.invalid/x", "worker"];
    let mut worker = Running::start(scene.command(&unknown));
    worker.logs("the database cannot be reached; trying again").await;
    worker.logs("lookup").await;
    worker.child.kill().await.expect("kill");
    for option in ["--fail-fast", "--once"] {
        let failed = scene.run(&[&nowhere[..], &[option]].concat()).await;
        assert!(failed.status == Some(1) && failed.err.contains("Connection refused"), "{}", failed.err);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_does_not_wait_for_encryption_that_cannot_come() {
    let scene = Scene::new().await;
    scene.task("hello", "#!/bin/sh\n");
    let server = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let without_tls = format!("postgres://postgres@{}/x?sslmode=require", server.local_addr().expect("an address"));
    let serving = tokio::spawn(async move {
        while let Ok((mut client, _)) = server.accept().await {
            // What a server without TLS answers who asks for it.
            let _ = client.write_all(b"N").await;
        }
    });
    let ended = scene.run(&["-c", &without_tls, "worker"]).await;
    assert!(ended.status == Some(1) && ended.err.contains("server does not support TLS"), "{}", ended.err);
    assert!(ended.err.contains("switch TLS on at the server"), "{}", ended.err);
    serving.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_whose_log_nobody_reads_any_more_ends() {
    let scene = Scene::new().await;
    scene.task("hello", "#!/bin/sh\n");
    let mut worker = scene.command(&["worker"]).spawn().expect("it runs");
    drop(worker.stderr.take());
    scene.run(&["add", "hello"]).await.ok();
    soon("it ends", worker.wait()).await.expect("wait");
    assert_eq!(scene.run(&["workers"]).await.ok(), "no workers\n", "in an orderly way");
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
async fn a_breaking_migration_ends_a_running_worker_with_status_57() {
    let scene = Scene::new().await;
    scene.task("t", "#!/bin/sh\n");
    let mut worker = Running::start(scene.command(&["worker", "-v"]));
    worker.logs("listening for wakeups").await;
    scene.sql("insert into S.migrations (id, breaking) values (999, true)").await;
    scene.sql("select pg_notify('worker:migrate', '{\"migrationNumber\":999,\"breaking\":true}')").await;
    assert_eq!(worker.ended().await, Some(57), "{}", worker.log);
    assert!(
        worker.log.contains("error: the storage (PostgreSQL, schema") && worker.log.contains("breaking revision 999"),
        "{}",
        worker.log
    );
    // One that starts afterwards was never running.
    let late = scene.run(&["worker"]).await;
    assert_eq!(late.status, Some(1), "{}", late.err);
    assert!(late.err.contains("revision 999"), "{}", late.err);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_lets_itself_be_handed_jobs_unless_it_is_told_to_claim_all() {
    let scene = Scene::new().await;
    scene.task("t", "#!/bin/sh\n");
    let offers = || async { scene.ask("select count(handover) from S.backfill_pools").await == "1" };
    let mut worker = Running::start(scene.command(&["worker"]));
    until("it says where it hears of jobs", offers).await;
    worker.signal("TERM").await;
    assert_eq!(worker.ended().await, Some(0), "{}", worker.log);

    let mut worker = Running::start(scene.command(&["worker", "-v", "--no-handoff"]));
    worker.logs("listening for wakeups").await;
    scene.run(&["add", "t"]).await.ok();
    until("it claims", || async { scene.ask("select count(*) from S._private_jobs").await == "0" }).await;
    assert!(!offers().await);
    worker.signal("TERM").await;
    assert_eq!(worker.ended().await, Some(0), "{}", worker.log);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_can_be_read_by_machines_and_told_to_be_quiet() {
    let scene = Scene::new().await;
    scene.task("t", "#!/bin/sh\necho out\n");
    for how in ["", "--quiet", "NO_LOG_SUCCESS"] {
        scene.run(&["add", "t"]).await.ok();
        let mut command = scene.command(&["worker", "--once", "--log-format", "json", "--json"]);
        match how {
            "" => {}
            "--quiet" => _ = command.arg(how),
            variable => _ = command.env(variable, "1"),
        }
        let ran = Ran::from(command.output().await.expect("it runs"));
        let quiet = !how.is_empty();
        let lines: Vec<Value> = ran.err.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert!(lines.iter().any(|line| line["message"] == "serving" && line["concurrency"] == 10), "{}", ran.err);
        let out = lines.iter().find(|line| line["message"] == "out").expect("what it printed");
        assert_eq!((&out["stream"], &out["span"]["task"]), (&Value::from("stdout"), &Value::from("t")));
        assert_eq!(lines.iter().any(|line| line["message"] == "the job is done"), !quiet, "{}", ran.err);
        assert_eq!(ran.json()["completed"], 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_options_of_a_worker_have_their_effect() {
    let scene = Scene::new().await;
    scene.task("quick", "#!/bin/sh\n");
    scene.task("alone", "#!/bin/sh\nmkdir \"$OUT\" || touch \"$OUT.together\"\nsleep 0.1\nrmdir \"$OUT\"\n");
    for _ in 0..4 {
        scene.run(&["add", "alone"]).await.ok();
    }
    // One that Node's worker has left behind, and one of a dead worker of ours.
    scene.run(&["add", "quick", "--key", "old"]).await.ok();
    scene.run(&["add", "quick", "--key", "dead"]).await.ok();
    scene
        .sql(
            "update S._private_jobs set locked_by = 'pool-node', locked_at = now() - interval '5 hours' where key = 'old';
             insert into S.backfill_pools (id, seen_at) values ('pool-dead', now() - interval '1 minute');
             update S._private_jobs set locked_by = 'pool-dead', locked_at = now() where key = 'dead'",
        )
        .await;
    let args = "worker --no-listen --poll-interval 200ms --client-time --no-prepared-statements --task-concurrency alone=1 \
                --prefetch 5 --prefetch-ttl 1m --refetch-delay 100ms --refetch-threshold 1 --refetch-abort-at 3 \
                --heartbeat-interval 200ms --dead-after 1s --min-reset-locked-interval 100ms --max-reset-locked-interval 200ms";
    let mut command = scene.command(&args.split_whitespace().collect::<Vec<_>>());
    command.env("OUT", scene.path("running"));
    let mut worker = Running::start(command);
    let says = worker.logs("serving").await;
    assert!(says.contains("wakeups=\"poll\"") && says.contains("poll_interval=200ms"), "{says}");
    let left = || async { scene.ask("select count(*) from S._private_jobs").await == "0" };
    until("all jobs are done, those of the dead too", left).await;
    assert!(!scene.path("running.together").exists(), "never two at once");
    // Nobody listens: the next one is found by the poll.
    let listening =
        "select count(*) from pg_stat_activity where datname = current_database() and query ilike 'listen %'";
    assert_eq!(scene.ask(listening).await, "0");
    scene.run(&["add", "quick"]).await.ok();
    until("the poll finds it", left).await;
    worker.signal("TERM").await;
    assert_eq!(worker.ended().await, Some(0), "{}", worker.log);
    for what in ["missed its heartbeats; released its jobs", "released jobs that were locked for more than four hours"]
    {
        assert!(worker.log.contains(what), "{what} in {}", worker.log);
    }
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
