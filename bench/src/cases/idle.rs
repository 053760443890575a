//! What a worker costs that has nothing to do, and what is left of its speed when dead rows pile up.

use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Connection};

use super::{Case, Figures, Ground, Measured};
use crate::Result;
use crate::contestant::Contestant::{self, Gw, GwBest, Node, NodeBest, Ours, River};
use crate::process::{Process, Role};

pub fn cases() -> Vec<Case> {
    vec![
        Case {
            name: "idle",
            about: "a worker with nothing to do, for 30 s; concurrency 24",
            figure: "statements/s",
            contestants: &[Ours, Node, Gw, River],
            once: true,
            measure: |ground, who| Box::pin(idle(ground, who)),
        },
        Case {
            name: "start-and-stop",
            about: "a whole process: it starts on a migrated database, runs one job, and ends",
            figure: "ms",
            contestants: &[Ours, Node, Gw, River],
            once: false,
            measure: |ground, who| Box::pin(start_and_stop(ground, who)),
        },
        Case {
            name: "memory",
            about: "a worker's resident memory after a million jobs",
            figure: "resident MiB",
            contestants: &[Ours, NodeBest, GwBest],
            once: true,
            measure: |ground, who| Box::pin(memory(ground, who)),
        },
        Case {
            name: "snapshot",
            about: "800 jobs/s for three minutes while a transaction holds its snapshot; then 20 000 at once",
            figure: "jobs/s at the end",
            contestants: &[Ours, NodeBest, GwBest],
            once: true,
            measure: |ground, who| Box::pin(snapshot(ground, who)),
        },
    ]
}

fn worker(record: bool) -> Role {
    Role::Work { concurrency: 24, record }
}

async fn idle(ground: &mut Ground, contestant: Contestant) -> Result<Measured> {
    const TIME: u32 = 30;
    let database = ground.filled(contestant.library(), 0, 0, &[]).await?;
    let mut admin = ground.server.open(&database).await?;
    sqlx::raw_sql(AssertSqlSafe(format!("alter database {database} set log_statement = 'all'")))
        .execute(&mut admin)
        .await?;
    admin.close().await?;
    let mut child = Process::start(&ground.told(contestant, &database, worker(false))).await?;
    child.go().await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let (log, cpu) = (ground.server.logged_statements()?, child.spent()?.cpu);
    tokio::time::sleep(Duration::from_secs(TIME.into())).await;
    let spent = child.spent()?;
    let statements = ground.server.logged_statements()? - log;
    child.end().await?;
    ground.server.drop(&database).await?;
    #[expect(clippy::cast_precision_loss, reason = "few")]
    let figures = Figures::from([
        ("statements/s", statements as f64 / f64::from(TIME)),
        ("resident MiB", spent.resident_mib),
        ("client CPU ms/s", (spent.cpu - cpu).as_secs_f64() * 1e3 / f64::from(TIME)),
    ]);
    Ok(vec![(contestant.to_string(), figures)])
}

/// Waits until no job is left.
async fn drained(
    ground: &Ground,
    contestant: Contestant,
    database: &str,
    every: Duration,
    within: Duration,
) -> Result<()> {
    let mut watch = ground.server.open(database).await?;
    let begin = Instant::now();
    while !sqlx::query_scalar::<_, bool>(contestant.library().is_drained()).fetch_one(&mut watch).await? {
        if begin.elapsed() > within {
            return Err(format!("its jobs were not done within {within:?}").into());
        }
        tokio::time::sleep(every).await;
    }
    watch.close().await?;
    Ok(())
}

async fn start_and_stop(ground: &mut Ground, contestant: Contestant) -> Result<Measured> {
    let database = ground.filled(contestant.library(), 1, 0, &[]).await?;
    let begin = Instant::now();
    let mut child = Process::start(&ground.told(contestant, &database, worker(false))).await?;
    let ready = begin.elapsed();
    child.go().await?;
    drained(ground, contestant, &database, Duration::from_millis(1), Duration::from_secs(20)).await?;
    let done = begin.elapsed();
    child.end().await?;
    let ended = begin.elapsed();
    let mut figures = Figures::from([
        ("ms", ended.as_secs_f64() * 1e3),
        ("ms until ready", ready.as_secs_f64() * 1e3),
        ("ms until its job is done", done.as_secs_f64() * 1e3),
    ]);
    if contestant == Ours {
        let begin = Instant::now();
        Process::start(&ground.told(contestant, &database, Role::StartAndStop)).await?.end().await?;
        figures.insert("ms without a job", begin.elapsed().as_secs_f64() * 1e3);
    }
    ground.server.drop(&database).await?;
    Ok(vec![(contestant.to_string(), figures)])
}

async fn memory(ground: &mut Ground, contestant: Contestant) -> Result<Measured> {
    let database = ground.filled(contestant.library(), 1_000_000, 0, &["vacuum analyze"]).await?;
    let mut child = Process::start(&ground.told(contestant, &database, worker(false))).await?;
    let before = child.spent()?.resident_mib;
    child.go().await?;
    drained(ground, contestant, &database, Duration::from_millis(100), Duration::from_secs(120)).await?;
    let after = child.spent()?.resident_mib;
    child.end().await?;
    ground.server.drop(&database).await?;
    Ok(vec![(contestant.to_string(), Figures::from([("resident MiB", after), ("resident MiB before", before)]))])
}

async fn snapshot(ground: &mut Ground, contestant: Contestant) -> Result<Measured> {
    const TIME: Duration = Duration::from_secs(180);
    const BURST: usize = 20_000;
    let database = ground.filled(contestant.library(), 0, 0, &[]).await?;
    let mut child = Process::start(&ground.told(contestant, &database, worker(false))).await?;
    child.go().await?;
    let burst = async |ground: &Ground| -> Result<f64> {
        let begin = Instant::now();
        ground.fill(contestant, &database, BURST, 0).await?;
        drained(ground, contestant, &database, Duration::from_millis(5), TIME).await?;
        #[expect(clippy::cast_precision_loss, reason = "few")]
        Ok(BURST as f64 / begin.elapsed().as_secs_f64())
    };
    let before = burst(ground).await?;
    let mut holder = ground.server.open(&database).await?;
    let mut held = holder.begin().await?;
    sqlx::raw_sql(
        "set transaction isolation level repeatable read; select count(*) from graphile_worker._private_jobs",
    )
    .execute(&mut *held)
    .await?;
    let begin = Instant::now();
    let mut tick = tokio::time::interval(Duration::from_millis(500));
    let mut admin = ground.server.open(&database).await?;
    while begin.elapsed() < TIME {
        tick.tick().await;
        // Through the schema's own function, as one from anywhere would.
        sqlx::raw_sql(
            "select count(*) from (
               select graphile_worker.add_job('noop', json_build_object('n', n)) from generate_series(1, 400) as n
             ) as added",
        )
        .execute(&mut admin)
        .await?;
    }
    drained(ground, contestant, &database, Duration::from_millis(5), TIME).await?;
    let after = burst(ground).await?;
    let dead: i64 = sqlx::query_scalar("select n_dead_tup from pg_stat_user_tables where relname = '_private_jobs'")
        .fetch_one(&mut admin)
        .await?;
    held.rollback().await?;
    admin.close().await?;
    holder.close().await?;
    child.end().await?;
    ground.server.drop(&database).await?;
    #[expect(clippy::cast_precision_loss, reason = "few")]
    let figures = Figures::from([
        ("jobs/s at the end", after),
        ("jobs/s at first", before),
        ("share kept", after / before),
        ("dead rows", dead as f64),
    ]);
    Ok(vec![(contestant.to_string(), figures)])
}
