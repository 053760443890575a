//! The crate riverqueue.

use std::time::{Duration, Instant};

use riverqueue::migrate::PostgresMigrator;
use riverqueue::sqlx::PgPool;
use riverqueue::{BoxError, Client, Job, JobArgs, QueueConfig, WorkContext, WorkOutcome, Workers};
use serde::{Deserialize, Serialize};

use super::{Payload, Record, one_by_one, ready, say, slowly};
use crate::Result;
use crate::process::{Role, Told};

#[derive(Clone, Debug, Serialize, Deserialize, JobArgs)]
#[river(kind = "noop")]
struct Noop {
    n: u64,
}

pub async fn run(told: &Told) -> Result<()> {
    let pool = PgPool::connect(&told.url).await?;
    let record = Record::new(matches!(told.role, Role::Work { record: true, .. }));
    let mut workers = Workers::new();
    let recording = record.clone();
    workers.add_fn(move |_: WorkContext, job: Job<Noop>| {
        recording.began(&Payload { n: job.args.n });
        async { Ok::<_, BoxError>(WorkOutcome::Complete) }
    })?;
    let mut builder = Client::builder(pool.clone()).workers(workers);
    let concurrency = match told.role {
        Role::Work { concurrency, .. } => concurrency,
        _ => 1,
    };
    builder = if told.best {
        let (often, many) = (Duration::from_millis(1), 2_000);
        builder
            .fetch_cooldown(often)
            .queue("default", QueueConfig::new(many).with_fetch_poll_interval(Duration::from_millis(2)))
    } else {
        builder.queue("default", QueueConfig::new(concurrency))
    };
    let client = builder.build()?;
    match told.role {
        Role::Fill { jobs, queues } => {
            if queues > 0 {
                return Err("it has no serial queues by name".into());
            }
            PostgresMigrator::new(pool).migrate_up().await?;
            ready().await?;
            let begin = Instant::now();
            let numbers: Vec<u64> = (0..jobs as u64).collect();
            for chunk in numbers.chunks(10_000) {
                client.insert_many(chunk.iter().map(|&n| Noop { n })).await?;
            }
            say(begin.elapsed().as_secs_f64())
        }
        Role::Work { .. } => {
            let input = ready().await?;
            let mut running = client.start()?;
            input.closed().await;
            running.stop().await?;
            record.tell()
        }
        Role::AddOneByOne { jobs, tasks } => {
            one_by_one(jobs, tasks, move |n| {
                let client = client.clone();
                async move { Ok(client.insert(Noop { n }).await.map(|_| ())?) }
            })
            .await
        }
        Role::AddSlowly { jobs, pause_ms } => {
            slowly(jobs, Duration::from_millis(pause_ms), async |n| Ok(client.insert(Noop { n }).await.map(|_| ())?))
                .await
        }
        Role::Cron { .. } | Role::StartAndStop | Role::Floor { .. } => Err("not measured".into()),
    }
}
