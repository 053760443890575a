//! Workers behind PgBouncer.

use std::process::Stdio;
use std::time::Duration;

use backfill::storage::CheckStatus;
use chrono::Utc;
use tokio::process::{Child, Command};
use tokio::time::sleep;

use super::Ground;
use crate::cluster::{Stop, free_port};
use crate::scene::{Outcome, Scene};

/// A pooler, which ends when dropped.
struct Pooler {
    port: u16,
    _process: Child,
    _directory: tempfile::TempDir,
}

impl Pooler {
    async fn start(scene: &Scene, mode: &str) -> Self {
        Self::with_connections(scene, mode, 40).await
    }

    /// With so many connections to the server.
    async fn with_connections(scene: &Scene, mode: &str, connections: usize) -> Self {
        use std::os::unix::fs::PermissionsExt;
        let program = std::env::var("BACKFILL_TEST_PGBOUNCER").expect(
            "BACKFILL_TEST_PGBOUNCER is not set; run this with ./scripts/test faults, which installs PgBouncer",
        );
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o777)).expect("permissions");
        let port = free_port();
        let users = directory.path().join("users");
        std::fs::write(&users, "\"postgres\" \"\"\n").expect("write");
        let settings = directory.path().join("pgbouncer.ini");
        let text = format!(
            "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = trust\nauth_file = {}\npool_mode = {mode}\ndefault_pool_size = {connections}\n\
             max_client_conn = 400\nignore_startup_parameters = extra_float_digits\n",
            scene.subject.port,
            users.display()
        );
        std::fs::write(&settings, text).expect("write");
        let mut command = Command::new(program);
        if let Ok(ids) = std::env::var("BACKFILL_TEST_PG_IDS") {
            let (user, group) = ids.split_once(':').expect("UID:GID");
            command.uid(user.parse().expect("a user id")).gid(group.parse().expect("a group id"));
        }
        let process = command
            .arg(&settings)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("start PgBouncer");
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            sleep(Duration::from_millis(10)).await;
        }
        Self { port, _process: process, _directory: directory }
    }
}

/// Jobs, serial queues and a crontab through the pooler; a worker is killed.
async fn through(ground: &Ground, mode: &str, prepared: bool) -> Outcome {
    let mut scene = ground.scene().await;
    let pooler = Pooler::start(&scene, mode).await;
    scene.told.url = crate::cluster::url(pooler.port, &scene.database);
    scene.told.prepared = prepared;
    scene.told.crontab = Some("* * * * * nothing ?fill=2m&id=cron".to_owned());
    // What is two minutes old is made up for at once.
    let since = (Utc::now() - chrono::TimeDelta::minutes(3)).to_rfc3339();
    scene
        .sql(&format!(
            "insert into graphile_worker._private_known_crontabs (identifier, known_since) values ('cron', '{since}')"
        ))
        .await;
    scene.add(500, 50).await;
    scene.add_serial(200, 10, 10).await;
    // Adding through the pooler, too.
    let client = backfill::BackfillClient::builder()
        .database_url(&scene.told.url)
        .prepared_statements(prepared)
        .build()
        .await
        .expect("through the pooler");
    for name in ["a", "b", "c"] {
        scene.start(name);
    }
    let work = crate::worker::Work { ms: 10, how: crate::worker::How::Sleep, pad: String::new() };
    for _ in 0..50 {
        let job = client.add(backfill::JobSpec::new("work", &work)).await.expect("add through the pooler");
        scene.accept([job.id.number()]);
    }
    let many = client.add_many((0..500).map(|_| backfill::JobSpec::new("work", &work))).await.expect("add");
    scene.accept(many.iter().map(|job| job.id.number()));
    for _ in 0..20 {
        client.counts().await.expect("counts");
        client.tasks().await.expect("tasks");
        client.jobs(&backfill::JobFilter::new().limit(5)).await.expect("jobs");
    }
    scene
        .until_answered(
            "a job of the crontab through the pooler",
            "select count(*) from graphile_worker._private_known_crontabs where last_execution is not null",
        )
        .await;
    let told = client.storage().doctor().expect("doctor").diagnose(backfill::storage::Effort::Exact).await;
    let not_listening = told.iter().any(|checked| {
        checked.what == "notifications"
            && matches!(&checked.status, CheckStatus::Found { remedy, .. } if remedy.contains("pooler"))
    });
    assert_eq!(not_listening, mode == "transaction", "the doctor knows: {told:?}");
    if mode == "transaction" {
        scene.until("the lost listener is noticed", "exists (select from told where what = 'listener lost')").await;
        scene.remark = "loss is noticed; polling".to_owned();
    } else {
        scene.until("listening", "exists (select from told where what = 'listening')").await;
        assert_eq!(scene.count("select count(*) from told where what = 'listener lost'").await, 0);
        scene.remark = "listening".to_owned();
    }
    scene.add(100, 1000).await;
    scene.until("work by a", "exists (select from told where what = 'start' and worker = 'a')").await;
    scene.kill("a").await;
    let outcome = scene.end().await;
    drop(pooler);
    outcome
}

/// Survives by: nothing in particular: such a pooler is a server.
pub async fn through_a_pooler_by_the_session(ground: &Ground) -> Outcome {
    through(ground, "session", true).await
}

/// Survives by: statements with a transaction of their own (`postgres/isolation.rs`), and a listener that notices that its connection
/// is pooled so (`postgres/transaction_pooling.rs`). This PgBouncer does not track prepared statements, or need not.
pub async fn through_a_pooler_by_the_transaction(ground: &Ground) -> Outcome {
    through(ground, "transaction", false).await
}

/// PgBouncer's own default, and three workers, each of which could use eight connections.
///
/// Survives by: the heartbeat's connection, which is the first of each worker, and the others, which are shared where there are few
/// and closed when nobody uses them (`postgres/own.rs`).
pub async fn a_pooler_has_few_connections_for_many_workers(ground: &Ground) -> Outcome {
    let mut scene = ground.scene().await;
    let pooler = Pooler::with_connections(&scene, "session", 20).await;
    scene.told.url = crate::cluster::url(pooler.port, &scene.database);
    scene.add(600, 100).await;
    scene.add_serial(100, 10, 10).await;
    for name in ["a", "b", "c", "d"] {
        scene.start(name);
    }
    for name in ["a", "b", "c", "d"] {
        scene
            .until("each works", &format!("exists (select from told where what = 'start' and worker = '{name}')"))
            .await;
    }
    // For two leases and more.
    scene.add(40, ground.scaled(20_000, 40_000)).await;
    let mut outcome = scene.end().await;
    drop(pooler);
    assert_eq!(outcome.starts, outcome.jobs, "nobody is declared dead");
    outcome.remark = "four workers share 20 connections".to_owned();
    outcome
}

/// Survives by: `PostgresStorage::reach`, which asks the server something: a pooler says hello for one that is not there.
pub async fn a_worker_starts_before_the_server_of_a_pooler(ground: &Ground) -> Outcome {
    let mut scene = ground.scene().await;
    let pooler = Pooler::start(&scene, "session").await;
    scene.told.url = crate::cluster::url(pooler.port, &scene.database);
    scene.add(50, 10).await;
    scene.subject.stop(Stop::Fast).await;
    // The second one is told at once what the pooler has learnt by the first.
    scene.start("a");
    sleep(Duration::from_secs(3)).await;
    scene.start("b");
    sleep(Duration::from_secs(3)).await;
    assert_eq!(scene.dead(), None, "both wait");
    scene.subject.start().await;
    scene.outage_is_over();
    let outcome = scene.end().await;
    drop(pooler);
    outcome
}
