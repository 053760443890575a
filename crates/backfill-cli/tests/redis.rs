//! The binary on Redis: the first steps of its help, over TLS, without a password in sight, and moving jobs there and back.

#[path = "../../backfill-redis/tests/redis_server/mod.rs"]
mod redis_server;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use redis_server::{Server, namespace, shared};
use tempfile::TempDir;

struct Ran {
    status: Option<i32>,
    out: String,
    err: String,
}

impl Ran {
    fn ok(self) -> String {
        assert_eq!(self.status, Some(0), "{}{}", self.out, self.err);
        self.out
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        Self { status: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

/// The binary in a directory of its own, with this database and namespace.
struct Scene {
    directory: TempDir,
    url: String,
    namespace: String,
    authority: Option<std::path::PathBuf>,
}

impl Scene {
    fn new(url: String) -> Self {
        Self { directory: TempDir::new().expect("a directory"), url, namespace: namespace(), authority: None }
    }

    fn run(&self, args: &[&str]) -> Ran {
        let mut command = Command::new(env!("CARGO_BIN_EXE_backfill"));
        command.args(args).current_dir(self.directory.path());
        command
            .env("DATABASE_URL", &self.url)
            .env("BACKFILL_SCHEMA", &self.namespace)
            .env("HOME", self.directory.path());
        if let Some(authority) = &self.authority {
            command.env("SSL_CERT_FILE", authority);
        }
        command.output().expect("it runs").into()
    }

    fn task(&self, name: &str, script: &str) {
        let tasks = self.directory.path().join("tasks");
        std::fs::create_dir_all(&tasks).expect("a directory");
        let file = tasks.join(name);
        std::fs::write(&file, format!("#!/bin/sh\n{script}\n")).expect("a file");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).expect("permissions");
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }
}

#[test]
fn the_first_steps_work_on_redis() {
    let scene = Scene::new(shared().url());
    scene.task("hello", "cat");
    assert!(scene.run(&["add", "hello", "{\"name\": \"Ada\"}"]).ok().contains("added job 1"));
    let listed = scene.run(&["jobs"]).ok();
    assert!(listed.contains("hello") && listed.contains("ready"), "{listed}");
    let worked = scene.run(&["worker", "--once"]).ok();
    assert!(worked.contains("1 job"), "{worked}");
    assert!(!scene.run(&["jobs"]).ok().contains("hello"));
    assert!(scene.run(&["tasks"]).ok().contains("hello"));
    let id = scene.run(&["messages", "send", "q", "{\"a\": 1}"]).ok();
    let taken = scene.run(&["messages", "take", "q"]).ok();
    let (handle, body) = taken.trim().split_once('\t').expect("a handle and a body");
    assert!(handle.ends_with(id.trim()) && body == "{\"a\": 1}", "{taken}");
    scene.run(&["messages", "ack", handle]).ok();
    let doctor = scene.run(&["doctor"]);
    assert_eq!(doctor.status, Some(1), "this server writes nothing to its disk: {}", doctor.out);
    assert!(doctor.out.contains("found    durability: "), "{}", doctor.out);
    assert_eq!(doctor.out.matches("found ").count(), 1, "{}", doctor.out);
}

#[test]
fn jobs_move_to_redis_and_back_as_they_were() {
    let scene = Scene::new(shared().url());
    let file = format!("sqlite://{}", scene.path().join("jobs.db").display());
    for (task, more) in
        [("a", ["--priority", "-3"]), ("b", ["--key", "k"]), ("c", ["--queue", "q"]), ("d", ["--in", "1h"])]
    {
        scene.run(&["--database-url", &file, "add", task, "{\"n\": 12345678901234567890123}", more[0], more[1]]).ok();
    }
    let listed = |scene: &Scene, url: &str| -> Vec<serde_json::Value> {
        let text = scene.run(&["--database-url", url, "jobs", "--json"]).ok();
        let mut jobs: Vec<serde_json::Value> = serde_json::from_str(&text).expect("JSON");
        for job in &mut jobs {
            job["id"] = 0.into();
        }
        jobs
    };
    let before = listed(&scene, &file);
    assert_eq!(before.len(), 4);
    assert!(scene.run(&["move", "--from", &file, "--to", &scene.url]).ok().contains("moved 4 jobs"));
    assert!(listed(&scene, &file).is_empty());
    assert_eq!(listed(&scene, &scene.url), before);
    let back = format!("sqlite://{}", scene.path().join("back.db").display());
    assert!(scene.run(&["move", "--from", &scene.url, "--to", &back]).ok().contains("moved 4 jobs"));
    assert_eq!(listed(&scene, &back), before);
    let same = scene.run(&["move", "--from", &scene.url, "--to", &scene.url]);
    assert!(same.status == Some(2) && same.err.contains("same place"), "{}", same.err);
}

#[test]
fn a_password_of_redis_is_never_shown() {
    let server = Server::start(&["--requirepass", "secret-word"]);
    let right = Scene::new(format!("redis://:secret-word@127.0.0.1:{}", server.port));
    let wrong = Scene::new(format!("redis://:other-secret@127.0.0.1:{}", server.port));
    right.run(&["add", "t"]).ok();
    for scene in [&right, &wrong] {
        for args in [&["jobs"][..], &["doctor"], &["-v", "worker", "--once"], &["jobs", "--json"], &["migrate"]] {
            let ran = scene.run(args);
            assert!(!ran.out.contains("secret") && !ran.err.contains("secret"), "{args:?}: {}{}", ran.out, ran.err);
        }
        let on_the_line = scene.run(&["--database-url", &scene.url, "jobs"]);
        assert!(!on_the_line.err.contains("secret"), "{}", on_the_line.err);
    }
    let refused = wrong.run(&["jobs"]);
    assert!(refused.status == Some(1) && refused.err.contains("check user and password"), "{}", refused.err);
    let without = Scene::new(server.url()).run(&["jobs"]);
    assert!(without.status == Some(1) && without.err.contains("wants to know who asks"), "{}", without.err);
}

#[test]
fn redis_is_reached_over_tls() {
    let (server, port) = Server::start_with_tls(&[]);
    let mut scene = Scene::new(format!("rediss://localhost:{port}"));
    let unknown = scene.run(&["add", "t"]);
    assert!(unknown.status == Some(1) && unknown.err.contains("certificate"), "{}", unknown.err);
    scene.authority = Some(server.path().join("ca.crt"));
    assert!(scene.run(&["add", "t"]).ok().contains("added job 1"));
    scene.task("t", "true");
    scene.run(&["worker", "--once"]).ok();
}
