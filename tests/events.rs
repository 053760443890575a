//! What a worker tells of itself, beside what its jobs do.

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use backfill::testing::{Faults, FaultyStorage};
use backfill::worker::Event;
use backfill::{BackfillClient, Crontab, Error, JobContext, JobSpec, Worker, task_fn};
use chrono::{TimeDelta, Utc};
use support::running::Running;
use support::{client, soon, sql};

/// An event's name, as the enum has it.
fn name(event: &Event) -> String {
    let debug = match event {
        Event::Cron(event) => format!("Cron{event:?}"),
        other => format!("{other:?}"),
    };
    debug.split(|char: char| !char.is_alphanumeric()).next().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upkeep_crontab_and_troubles_are_told() {
    let (inner, pool, schema) = client().await;
    let since = Utc::now() - TimeDelta::minutes(5);
    inner
        .storage()
        .require_schedules()
        .expect("schedules")
        .register_crontabs(&["t".to_owned()], since)
        .await
        .expect("register");
    sql(&pool, &schema, "insert into S.backfill_pools (id, seen_at) values ('pool-dead', now() - interval '1 minute')")
        .await;
    // Every second settlement's answer is lost.
    let faults = Arc::new(Faults::default());
    faults.lose_settles(2);
    let faulty = Arc::new(FaultyStorage::new(inner.storage().clone(), Arc::clone(&faults)));
    let worker = Worker::builder(BackfillClient::with_storage(faulty))
        .task(task_fn("t", |_: serde::de::IgnoredAny, _: JobContext| async {}))
        .crontab("* * * * * t ?fill=10m".parse::<Crontab>().expect("a crontab"))
        .heartbeat_every(Duration::from_millis(100))
        .dead_after(Duration::from_secs(1))
        .sweep_interval(Duration::from_millis(20), Duration::from_millis(40))
        .event_capacity(100_000)
        .handle_signals(false)
        .build()
        .expect("a worker");
    let mut events = worker.events();
    let running = Running::of(worker);
    let mut seen: BTreeSet<String> = BTreeSet::new();
    let mut see = async |wanted: &[&str]| {
        soon("the events", async {
            while !wanted.iter().all(|wanted| seen.contains(*wanted)) {
                seen.insert(name(&events.next().await.expect("it runs")));
            }
        })
        .await;
    };
    see(&["Started", "CronStarting", "CronStarted", "CronBackfilling", "CronAdded", "Swept", "Rescued"]).await;
    inner.add_many((0..5).map(|n| JobSpec::new("t", n))).await.expect("add");
    see(&["WriteFailed", "Written"]).await;
    faults.fail_sweeps(true);
    faults.lose_heartbeats(true);
    see(&["SweepFailed", "HeartbeatFailed"]).await;
    faults.fail_sweeps(false);
    faults.lose_heartbeats(false);
    // As Node's would; whoever listens looks at the ledger when it begins to, and is told of this.
    sql(&pool, &schema, "insert into S.migrations (id, breaking) values (21, true)").await;
    sql(&pool, &schema, "select pg_notify('worker:migrate', '{\"migrationNumber\":21,\"breaking\":true}')").await;
    see(&["BreakingMigration", "ShuttingDown"]).await;
    let ended = running.ended().await;
    assert!(matches!(ended, Err(Error::BreakingMigration { revision: 21, .. })), "{ended:?}");
}
