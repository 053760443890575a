//! What a worker meets as a process among others: its file that is taken away, and being the first of a container.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use common::support::{soon, until};
use common::{Ran, Running, binary};
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// A directory with a file of jobs, and a program as a task.
async fn scene(task: &str) -> TempDir {
    let directory = TempDir::new().expect("a directory");
    fs::create_dir(directory.path().join("tasks")).expect("a directory");
    let path = directory.path().join("tasks/t");
    fs::write(&path, task).expect("write");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("executable");
    run(&directory, &["add", "t"]).await.ok();
    directory
}

async fn run(directory: &TempDir, args: &[&str]) -> Ran {
    let mut command = binary(directory.path());
    command.args(args).env("DATABASE_URL", "sqlite:jobs.db");
    soon("the binary ends", command.output()).await.expect("it runs").into()
}

fn worker(directory: &TempDir) -> Command {
    let mut command = binary(directory.path());
    command.args(["worker", "--heartbeat-interval", "100ms", "--dead-after", "1h", "--poll-interval", "1h"]);
    command.env("DATABASE_URL", "sqlite:jobs.db");
    command
}

#[tokio::test]
async fn a_worker_whose_file_is_removed_or_replaced_ends_with_an_error() {
    for replaced in [false, true] {
        let directory = scene("#!/bin/sh\necho running > running\nexec sleep 3600\n").await;
        let file = |name: &str| directory.path().join(name);
        let mut worker = Running::start(worker(&directory));
        worker.logs("serving").await;
        until("the job runs", || async { file("running").exists() }).await;
        let why = if replaced {
            let mut other = binary(directory.path());
            other.args(["migrate"]).env("DATABASE_URL", "sqlite:backup.db");
            Ran::from(soon("it ends", other.output()).await.expect("it runs")).ok();
            fs::rename(file("backup.db"), file("jobs.db")).expect("rename");
            "jobs.db was replaced by another file while this program had it open"
        } else {
            fs::remove_file(file("jobs.db")).expect("remove");
            "jobs.db was removed while this program had it open"
        };
        assert_eq!(worker.ended().await, Some(1), "{}", worker.log);
        let told = worker.log.lines().find(|line| line.starts_with("error: ")).expect("it says why");
        assert!(told.contains(why) && told.contains("start them again"), "{told}");
    }
}

/// Whether this system lets a test have a namespace of processes, as a container has. (Root may, as a rule.)
async fn has_namespaces() -> bool {
    let tried =
        Command::new("unshare").args(["--pid", "--fork", "--mount-proc", "true"]).stderr(Stdio::null()).status();
    let allowed = tried.await.is_ok_and(|status| status.success());
    if !allowed {
        println!("left out: unshare may not make a namespace of processes here");
    }
    allowed
}

/// The same as the first process of a namespace.
fn as_first(command: &Command) -> Command {
    let command = command.as_std();
    let mut first = Command::new("unshare");
    first.args(["--pid", "--fork", "--mount-proc", "--kill-child"]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => first.env(name, value),
            None => first.env_remove(name),
        };
    }
    first.current_dir(command.get_current_dir().expect("a directory"));
    first.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    first
}

/// One field of what `/proc` says of a process that is there.
fn status_of(number: u32, field: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{number}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix(field)).map(|value| value.trim().to_owned())
}

/// The children of a process.
fn children(of: u32) -> Vec<u32> {
    let all =
        fs::read_dir("/proc").expect("it is there").filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    all.filter(|number| status_of(*number, "PPid:") == Some(of.to_string())).collect()
}

/// The first process of the namespace, by its number outside.
fn first_of(unshare: &Child) -> u32 {
    let [first] = children(unshare.id().expect("it runs"))[..] else { panic!("there is one") };
    first
}

#[tokio::test]
async fn the_first_process_of_a_container_reaps_orphans_of_tasks() {
    if !has_namespaces().await {
        return;
    }
    // The orphan leaves its group, and ends after its parent.
    let task = "#!/bin/sh\nsetsid sh -c 'read line < pipe; echo $$ > orphan' > /dev/null 2>&1 &\n";
    let directory = scene(task).await;
    let made = Command::new("mkfifo").arg(directory.path().join("pipe")).status().await.expect("it runs");
    assert!(made.success());
    let mut worker = Running::start(as_first(&worker(&directory)));
    worker.logs("serving").await;
    let first = first_of(&worker.child);
    until("the job is done", || async { !run(&directory, &["jobs", "--json"]).await.ok().contains("\"t\"") }).await;
    until("the orphan has come to it", || async { !children(first).is_empty() }).await;
    let orphans = children(first);
    fs::write(directory.path().join("pipe"), "go\n").expect("write");
    until("it has ended", || async { directory.path().join("orphan").exists() }).await;
    until("it is reaped", || async { orphans.iter().all(|orphan| status_of(*orphan, "State:").is_none()) }).await;
    assert_eq!(status_of(first, "NSpid:").as_deref().and_then(|ids| ids.split_whitespace().last()), Some("1"));
}

#[tokio::test]
async fn what_reaps_orphans_leaves_the_ends_of_tasks_to_who_waits_for_them() {
    if !has_namespaces().await {
        return;
    }
    let directory = scene("#!/bin/sh\n(true &)\n(true &)\nexit $((GRAPHILE_WORKER_JOB_ID % 2 * 3))\n").await;
    let jobs: String = (0..199).map(|_| "{\"task\":\"t\"}\n").collect();
    fs::write(directory.path().join("jobs"), jobs).expect("write");
    run(&directory, &["add", "--from", "jobs"]).await.ok();
    let mut command = binary(directory.path());
    command.args(["worker", "--once", "--json", "--concurrency", "8"]).env("DATABASE_URL", "sqlite:jobs.db");
    let ran = Ran::from(soon("it ends", as_first(&command).output()).await.expect("it runs"));
    let told = ran.json();
    assert_eq!((&told["completed"], &told["failed"]), (&100.into(), &100.into()), "{told}");
    let errors = run(&directory, &["jobs", "--json"]).await.ok();
    assert_eq!(errors.matches("exit status: 3").count(), 100, "{errors}");
}

#[tokio::test]
async fn the_first_process_of_a_container_ends_by_a_signal_before_it_works_as_well() {
    if !has_namespaces().await {
        return;
    }
    let directory = scene("#!/bin/sh\n").await;
    let mut command = worker(&directory);
    // Nobody listens there.
    command.env("DATABASE_URL", "postgres://nobody@127.0.0.1:1/nowhere");
    let mut worker = Running::start(as_first(&command));
    worker.logs("cannot be reached").await;
    let first = first_of(&worker.child);
    let sent = Command::new("kill").args(["-TERM", &first.to_string()]).status().await.expect("it runs");
    assert!(sent.success());
    assert_eq!(worker.ended().await, Some(128 + 15), "{}", worker.log);
}
