//! A server that goes away, comes back, or is replaced by another.

use std::sync::Arc;
use std::time::{Duration, Instant};

use backfill::storage::CheckStatus;
use tokio::time::sleep;

use super::{Ground, three_workers};
use crate::cluster::{Cluster, Stop};
use crate::scene::{Outcome, Scene, connect};
use crate::support::LISTENS;

/// Survives by: the listener's reconnecting (`postgres/listen.rs`), and polling meanwhile.
pub async fn the_listener_is_terminated(ground: &Ground) -> Outcome {
    let mut scene = ground.scene().await;
    scene.start("a");
    scene.until("listening", "exists (select from told where what = 'listening')").await;
    for round in 1..=3 {
        scene.sql(&format!("select pg_terminate_backend(pid) from pg_stat_activity where {LISTENS}")).await;
        scene.add(20, 10).await;
        scene.until_finished(20 * round).await;
        scene.until("hearing again", &format!("(select count(*) from told where what = 'listening') > {round}")).await;
    }
    let outcome = scene.end().await;
    assert_eq!(outcome.starts, outcome.jobs);
    outcome
}

/// Survives by: retries of every call; a settlement that was applied and not answered is idempotent, a claim that was is released
/// (`release_untracked`).
pub async fn every_connection_is_terminated_again_and_again(ground: &Ground) -> Outcome {
    let mut scene = ground.scene().await;
    let time = ground.seconds(8, 60);
    scene.add(usize::try_from(time.as_secs()).expect("few") * 60, 200).await;
    three_workers(&mut scene).await;
    let begun = Instant::now();
    let admin = scene.admin().await;
    while begun.elapsed() < time {
        crate::scene::sql(
            &admin,
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()",
        )
        .await;
        sleep(Duration::from_millis(200)).await;
    }
    admin.close().await;
    scene.outage_is_over();
    let outcome = scene.end().await;
    assert_eq!(outcome.starts, outcome.jobs, "a claim whose answer was lost starts nothing twice");
    outcome
}

async fn the_server_is_down(ground: &Ground, how: Stop, time: Duration) -> Outcome {
    let mut scene = ground.scene().await;
    scene.add(240, 700).await;
    scene.add_serial(50, 5, 50).await;
    three_workers(&mut scene).await;
    sleep(Duration::from_secs(1)).await;
    scene.subject.stop(how).await;
    let before = scene.memory();
    sleep(time).await;
    let grown = scene.memory().saturating_sub(before);
    assert!(grown < 20, "memory stays bounded: {grown} MiB more");
    scene.subject.start().await;
    scene.outage_is_over();
    let outcome = scene.end().await;
    assert_eq!(outcome.starts, outcome.jobs, "what ran during the outage is settled with its one attempt");
    outcome
}

/// Survives by: the settler holds results and tries again.
pub async fn the_server_is_restarted(ground: &Ground) -> Outcome {
    the_server_is_down(ground, Stop::Fast, Duration::ZERO).await
}

/// Survives by: the same, and missed heartbeats that count from the server's start.
pub async fn the_server_crashes(ground: &Ground) -> Outcome {
    the_server_is_down(ground, Stop::Immediate, Duration::ZERO).await
}

/// Survives by: missed heartbeats count from the server's start, and only for who has been in contact (`worker/maintenance.rs`).
pub async fn the_server_is_down_for_longer_than_the_lease(ground: &Ground) -> Outcome {
    the_server_is_down(ground, Stop::Fast, ground.seconds(20, 60)).await
}

/// Survives by: `BackfillClientBuilder::wait_for_database`.
pub async fn a_worker_starts_before_the_server(ground: &Ground) -> Outcome {
    let mut scene = ground.scene().await;
    scene.add(50, 10).await;
    scene.subject.stop(Stop::Fast).await;
    scene.start("a");
    sleep(Duration::from_secs(5)).await;
    scene.subject.start().await;
    scene.outage_is_over();
    scene.end().await
}

/// Survives by: retries; a worker needs no new connection for what it has.
pub async fn nobody_may_connect(ground: &Ground) -> Outcome {
    let mut scene = ground.scene().await;
    scene.add(300, 100).await;
    three_workers(&mut scene).await;
    let database = scene.database.clone();
    let admin = connect(&scene.subject.url("postgres")).await;
    // A limit on connections would let a superuser in.
    crate::scene::sql(&admin, &format!("alter database {database} allow_connections false")).await;
    crate::scene::sql(
        &admin,
        &format!("select pg_terminate_backend(pid) from pg_stat_activity where datname = '{database}'"),
    )
    .await;
    sleep(ground.seconds(8, 30)).await;
    crate::scene::sql(&admin, &format!("alter database {database} allow_connections true")).await;
    admin.close().await;
    scene.outage_is_over();
    let outcome = scene.end().await;
    assert_eq!(outcome.starts, outcome.jobs);
    outcome
}

/// Survives by: retries. Three workers want up to twenty connections, and two are to be had.
pub async fn the_connection_limit_is_reached(ground: &Ground) -> Outcome {
    let mut scene = ground.scene().await;
    let (database, role) = (scene.database.clone(), format!("role_{}", scene.database));
    // A superuser would be let in all the same.
    scene
        .sql(&format!(
            "create role {role} login bypassrls;
             grant usage on schema graphile_worker to {role};
             grant all on all tables in schema graphile_worker to {role};
             grant all on all sequences in schema graphile_worker to {role};
             grant execute on all functions in schema graphile_worker to {role}"
        ))
        .await;
    scene.told.url = scene.told.url.replacen("postgres@", &format!("{role}@"), 1);
    scene.add(300, 100).await;
    three_workers(&mut scene).await;
    scene
        .sql(&format!(
            "alter database {database} connection limit 2;
             select pg_terminate_backend(pid) from pg_stat_activity where datname = '{database}' and usename = '{role}'"
        ))
        .await;
    sleep(ground.seconds(8, 30)).await;
    scene.sql(&format!("alter database {database} connection limit -1")).await;
    scene.outage_is_over();
    let outcome = scene.end().await;
    assert_eq!(outcome.starts, outcome.jobs);
    outcome
}

/// A primary and a standby of a case's own, and three workers amid their jobs. The primary waits for the standby, or a failover
/// would lose what was acknowledged.
async fn pair_at_work(ground: &Ground) -> (Arc<Cluster>, Cluster, Scene) {
    let primary = Cluster::start_new(&["wal_level=replica", "max_wal_senders=5", "max_connections=100"]).await;
    let primary = Arc::new(primary);
    let standby = primary.standby().await;
    let mut scene = Scene::new(&primary, &ground.witness).await;
    scene.sql("alter system set synchronous_standby_names = '*'").await;
    scene.sql("select pg_reload_conf()").await;
    scene.add(400, 500).await;
    three_workers(&mut scene).await;
    sleep(Duration::from_secs(1)).await;
    (primary, standby, scene)
}

/// The standby takes over, and new connections lead to it.
async fn fail_over(scene: &mut Scene, standby: Cluster) {
    standby.promote().await;
    let standby = Arc::new(standby);
    scene.proxy.lead_to(standby.port);
    scene.subject = Arc::clone(&standby);
    scene.sql("alter system reset synchronous_standby_names").await;
    scene.sql("select pg_reload_conf()").await;
    scene.outage_is_over();
}

/// Survives by: new connections after a reset, or after the old primary says that it may only be read.
pub async fn a_standby_is_promoted(ground: &Ground) -> Outcome {
    let (primary, standby, mut scene) = pair_at_work(ground).await;
    primary.stop(Stop::Immediate).await;
    fail_over(&mut scene, standby).await;
    let outcome = scene.end().await;
    assert_eq!(outcome.starts, outcome.jobs);
    outcome
}

/// Survives by: new connections when a server says that it may only be read (`postgres/errors.rs`), for those that listen and
/// send the heartbeat too.
pub async fn the_old_primary_may_only_be_read(ground: &Ground) -> Outcome {
    let (primary, standby, mut scene) = pair_at_work(ground).await;
    // Nobody's connection is cut: the old primary lives on, and refuses to write.
    scene.sql("alter system set default_transaction_read_only = on").await;
    scene.sql("select pg_reload_conf()").await;
    scene
        .until_answered(
            "read only",
            "select count(*) from pg_settings where name = 'default_transaction_read_only' and setting = 'on'",
        )
        .await;
    fail_over(&mut scene, standby).await;
    scene.until_finished(400).await;
    let old = connect(&primary.url(&scene.database)).await;
    let left = format!(
        "select count(*) from pg_stat_activity
         where {LISTENS}
           or (datname = current_database() and pid <> pg_backend_pid()
             and query ilike any (array['%update %backfill_pools%', '%locked_by%']))"
    );
    // A heartbeat is sent every five seconds.
    let begun = Instant::now();
    while sqlx::query_scalar::<_, i64>(sqlx::AssertSqlSafe(left.clone())).fetch_one(&old).await.expect("ask") > 0 {
        assert!(begun.elapsed() < Duration::from_secs(30), "somebody still trusts the old primary");
        sleep(Duration::from_millis(100)).await;
    }
    old.close().await;
    let outcome = scene.end().await;
    assert_eq!(outcome.starts, outcome.jobs);
    outcome
}

/// Survives by: nothing has to: dead rows pile up, and `backfill doctor` names who keeps them (`postgres/doctor/health.rs`).
pub async fn a_standby_is_gone_and_holds_vacuum_back(ground: &Ground) -> Outcome {
    let primary = Cluster::start_new(&["wal_level=replica", "max_wal_senders=5", "max_connections=100"]).await;
    let primary = Arc::new(primary);
    let standby = primary.standby().await;
    let mut scene = Scene::new(&primary, &ground.witness).await;
    scene.add(100, 100).await;
    scene.start("a");
    scene.sql("select pg_create_physical_replication_slot('gone')").await;
    let admin = connect(&standby.url("postgres")).await;
    for setting in ["primary_slot_name = 'gone'", "hot_standby_feedback = on", "wal_receiver_status_interval = '1s'"] {
        crate::scene::sql(&admin, &format!("alter system set {setting}")).await;
    }
    crate::scene::sql(&admin, "select pg_reload_conf()").await;
    admin.close().await;
    scene
        .until_answered("the slot's history", "select count(*) from pg_replication_slots where xmin is not null")
        .await;
    standby.stop(Stop::Fast).await;
    scene.until_answered("its end", "select count(*) from pg_replication_slots where not active").await;
    let held_back = async |scene: &Scene| {
        let checked = scene.client.storage().doctor().expect("doctor").diagnose(backfill::storage::Effort::Exact).await;
        checked.into_iter().find_map(|check| match check.status {
            CheckStatus::Found { problem, remedy } if check.what == "vacuum" => Some(format!("{problem}; {remedy}")),
            _ => None,
        })
    };
    let found = held_back(&scene).await.expect("the doctor finds it");
    assert!(
        found.contains("held back by replication slot gone") && found.contains("pg_drop_replication_slot"),
        "{found}"
    );
    scene.sql("select pg_drop_replication_slot('gone')").await;
    assert_eq!(held_back(&scene).await, None, "nobody any more");
    scene.remark = "the doctor names its slot".to_owned();
    let outcome = scene.end().await;
    assert_eq!(outcome.starts, outcome.jobs);
    outcome
}
