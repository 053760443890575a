//! backfill, with its default settings.

use std::time::{Duration, Instant};

use backfill::{BackfillClient, Event, Handler, JobContext, JobSpec, Worker, task_fn};

use super::{Payload, Record, one_by_one, ready, say, slowly};
use crate::Result;
use crate::process::{Role, Told};

pub async fn run(told: &Told) -> Result<()> {
    let client = BackfillClient::new(&told.url).await?;
    match told.role {
        Role::Fill { jobs, queues } => {
            ready().await?;
            let specs = (0..jobs as u64).map(|n| {
                let spec = JobSpec::new("noop", Payload { n });
                if queues == 0 { spec } else { spec.serial_queue(format!("queue {}", n % queues as u64)) }
            });
            let begin = Instant::now();
            client.add_many(specs).await?;
            say(begin.elapsed().as_secs_f64())
        }
        Role::Work { concurrency, record } => work(client, concurrency, Record::new(record)).await,
        Role::AddOneByOne { jobs, tasks } => {
            one_by_one(jobs, tasks, move |n| {
                let client = client.clone();
                async move { Ok(client.add(JobSpec::new("noop", Payload { n })).await.map(|_| ())?) }
            })
            .await
        }
        Role::AddSlowly { jobs, pause_ms } => {
            slowly(jobs, Duration::from_millis(pause_ms), async |n| {
                Ok(client.add(JobSpec::new("noop", Payload { n })).await.map(|_| ())?)
            })
            .await
        }
        Role::Cron { entries } => {
            let record = Record::new(true);
            let lines: String = (0..entries).map(|n| format!("* * * * * noop ?id=entry{n} {{n:{n}}}\n")).collect();
            let worker = Worker::builder(client).task(noop(&record)).concurrency(24).crontab(lines.parse()?).build()?;
            until_closed(worker).await?;
            record.tell()
        }
        Role::StartAndStop => {
            let worker = Worker::builder(client).task(noop(&Record::default())).concurrency(24).build()?;
            let (shutdown, mut events) = (worker.shutdown_handle(), worker.events());
            let running = tokio::spawn(async move { worker.run().await });
            while !matches!(events.next().await, None | Some(Event::Listening)) {}
            shutdown.shutdown();
            running.await??;
            say("ready")?;
            Ok(())
        }
        Role::Floor { .. } => unreachable!("it is not a library's"),
    }
}

fn noop(record: &Record) -> Handler {
    let record = record.clone();
    task_fn("noop", move |payload: Payload, _: JobContext| {
        record.began(&payload);
        async {}
    })
}

async fn work(client: BackfillClient, concurrency: usize, record: Record) -> Result<()> {
    let worker = Worker::builder(client).task(noop(&record)).concurrency(concurrency).build()?;
    until_closed(worker).await?;
    record.tell()
}

async fn until_closed(worker: Worker) -> Result<()> {
    let input = ready().await?;
    let shutdown = worker.shutdown_handle();
    let running = tokio::spawn(async move { worker.run().await });
    input.closed().await;
    shutdown.shutdown();
    running.await??;
    Ok(())
}
