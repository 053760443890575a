//! The crate graphile_worker.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use graphile_worker::{
    IntoTaskHandlerResult, JobSpec, LocalQueueConfig, RawJobSpec, TaskHandler, WorkerContext, WorkerOptions,
};
use serde::{Deserialize, Serialize};

use super::{Payload, Record, one_by_one, ready, say, slowly};
use crate::Result;
use crate::process::{Role, Told};

/// Its tasks are types, so what they share is global.
static RECORD: OnceLock<Record> = OnceLock::new();

#[derive(Clone, Serialize, Deserialize)]
struct Noop(Payload);

impl TaskHandler for Noop {
    const IDENTIFIER: &'static str = "noop";

    async fn run(self, _: WorkerContext) -> impl IntoTaskHandlerResult {
        if let Some(record) = RECORD.get() {
            record.began(&self.0);
        }
    }
}

pub async fn run(told: &Told) -> Result<()> {
    let mut options = WorkerOptions::default().database_url(&told.url).define_job::<Noop>();
    if let Role::Work { concurrency, record } = told.role {
        let _ = RECORD.set(Record::new(record));
        options = options.concurrency(concurrency).listen_os_shutdown_signals(false);
        if told.best {
            let batch = Duration::from_millis(1);
            options = options
                .poll_interval(batch)
                .complete_job_batch_delay(batch)
                .fail_job_batch_delay(batch)
                .local_queue(LocalQueueConfig::default().with_size(2_000).with_queue_count(2));
        }
    }
    let worker = options.init().await?;
    let utils = worker.create_utils();
    match told.role {
        Role::Fill { jobs, queues } => {
            utils.migrate().await?;
            ready().await?;
            let begin = Instant::now();
            let numbers: Vec<u64> = (0..jobs as u64).collect();
            // It sends all jobs of a call at once; in chunks, as its users are told to.
            for chunk in numbers.chunks(10_000) {
                let specs = chunk.iter().map(|&n| RawJobSpec {
                    identifier: "noop".to_owned(),
                    payload: serde_json::json!({ "n": n }),
                    spec: match queues {
                        0 => JobSpec::default(),
                        _ => JobSpec::builder().queue_name(format!("queue {}", n % queues as u64)).build(),
                    },
                });
                utils.add_raw_jobs(&specs.collect::<Vec<_>>()).await?;
            }
            say(begin.elapsed().as_secs_f64())
        }
        Role::Work { .. } => {
            let input = ready().await?;
            let worker = std::sync::Arc::new(worker);
            let running = tokio::spawn({
                let worker = worker.clone();
                async move { worker.run().await }
            });
            input.closed().await;
            worker.request_shutdown();
            running.await??;
            RECORD.get().map_or(Ok(()), Record::tell)
        }
        Role::AddOneByOne { jobs, tasks } => {
            one_by_one(jobs, tasks, move |n| {
                let utils = utils.clone();
                async move { Ok(utils.add_job(Noop(Payload { n }), JobSpec::default()).await.map(|_| ())?) }
            })
            .await
        }
        Role::AddSlowly { jobs, pause_ms } => {
            slowly(jobs, Duration::from_millis(pause_ms), async |n| {
                Ok(utils.add_job(Noop(Payload { n }), JobSpec::default()).await.map(|_| ())?)
            })
            .await
        }
        Role::Cron { .. } | Role::StartAndStop | Role::Floor { .. } => Err("not measured".into()),
    }
}
