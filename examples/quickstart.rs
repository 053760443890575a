//! A few hundred jobs of several kinds, a worker, live progress and a summary.
//!
//! ```sh
//! cargo run --example quickstart                                         # in an SQLite file, with nothing installed
//! DATABASE_URL=postgres://localhost/app cargo run --example quickstart   # the same in PostgreSQL
//! ```

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use backfill::storage::sqlite;
use backfill::{
    BackfillClient, Counts, JobContext, JobKeyMode, JobSpec, Priority, RetryPolicy, TaskPayload, Worker, handler_with,
    task_fn,
};
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use indicatif::{ProgressBar, ProgressStyle};

/// How often each task was started, and how often it failed.
type Tally = Arc<Mutex<BTreeMap<&'static str, (u32, u32)>>>;

fn note(tally: &Tally, task: &'static str, failed: bool) {
    if let Ok(mut tally) = tally.lock() {
        let entry = tally.entry(task).or_default();
        entry.0 += 1;
        entry.1 += u32::from(failed);
    }
}

#[derive(serde::Serialize, serde::Deserialize, TaskPayload)]
struct SendEmail {
    to: String,
}

/// A task: an async function of what it needs, if anything, and of a payload that names it.
async fn send_email(tally: Tally, email: SendEmail) -> Result<(), &'static str> {
    tokio::time::sleep(Duration::from_millis(20)).await;
    if !email.to.contains('@') {
        return Err("not an address");
    }
    note(&tally, SendEmail::TASK, false);
    Ok(())
}

/// What is left of the jobs of this program: others may use the same storage.
async fn left(client: &BackfillClient) -> backfill::Result<Counts> {
    let mut left = Counts::default();
    for task in client.tasks().await? {
        if ["send_email", "book", "remind", "reindex", "flaky"].contains(&task.name.as_str()) {
            left.ready += task.jobs.ready;
            left.scheduled += task.jobs.scheduled;
            left.running += task.jobs.running;
            left.retrying += task.jobs.retrying;
        }
    }
    Ok(left)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // One that is set and empty is refused below: somebody meant another place.
    let url = std::env::var("DATABASE_URL").or_else(|_| sqlite::default_url())?;
    let client = BackfillClient::new(&url).await?;
    println!("storing jobs in {}", client.storage().name());
    if url.starts_with("sqlite:") {
        println!(
            "(for PostgreSQL set DATABASE_URL=postgres://user@host/database; `backfill move --to` it moves waiting jobs)"
        );
    }

    // Three hundred at once, checked by the compiler.
    client.add_many((0..300).map(|n| SendEmail { to: format!("user{n}@example.com") })).await?;
    // Serial queues: each account's entries are booked one after the other, in order.
    client.add_many((0..60).map(|n| JobSpec::new("book", n).serial_queue(format!("account {}", n % 3)))).await?;
    // Delayed by a second, and before everything else once it is due.
    client.add(JobSpec::new("remind", "Ada").run_in(Duration::from_secs(1)).priority(Priority::FAST_HIGH)).await?;
    // One key, ten calls: one job.
    for n in 0..10 {
        client.add(JobSpec::new("reindex", n).key("reindex").key_mode(JobKeyMode::PreserveRunAt)).await?;
    }
    // One that fails twice before it succeeds.
    client.add(JobSpec::new("flaky", ())).await?;

    let tally = Tally::default();
    let counted = |task: &'static str, ms: u64| {
        let tally = tally.clone();
        task_fn(task, move |_: serde_json::Value, _: JobContext| {
            let tally = tally.clone();
            async move {
                tokio::time::sleep(Duration::from_millis(ms)).await;
                note(&tally, task, false);
            }
        })
    };
    let flaky = {
        let tally = tally.clone();
        task_fn("flaky", move |(): (), ctx: JobContext| {
            let tally = tally.clone();
            async move {
                let fails = ctx.job().attempts < 3;
                note(&tally, "flaky", fails);
                if fails { Err("the other side hung up") } else { Ok(()) }
            }
        })
        .retry(RetryPolicy::fixed(Duration::from_millis(400)))
    };
    let worker = Worker::builder(client.clone())
        .task(handler_with(tally.clone(), send_email))
        .task(counted("book", 5))
        .task(counted("remind", 0))
        .task(counted("reindex", 30))
        .task(flaky)
        .concurrency(8)
        .build()?;

    let handle = worker.shutdown_handle();
    let begin = Instant::now();
    let running = tokio::spawn(async move { worker.run().await });
    let total = left(&client).await?.alive();
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} jobs  {msg}")?;
    let bar = ProgressBar::new(total).with_style(style);
    loop {
        let counts = left(&client).await?;
        bar.set_position(total.saturating_sub(counts.alive()));
        bar.set_message(format!(
            "ready {}, scheduled {}, running {}, retrying {}",
            counts.ready, counts.scheduled, counts.running, counts.retrying
        ));
        if counts.alive() == 0 || running.is_finished() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    bar.finish();
    handle.shutdown();
    let summary = running.await??;

    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED).set_header(["task", "starts", "of these failed"]);
    if let Ok(tally) = tally.lock() {
        for (task, (starts, failed)) in tally.iter() {
            table.add_row([(*task).to_owned(), starts.to_string(), failed.to_string()]);
        }
    }
    println!("{table}");
    println!(
        "{} jobs done in {:.1} s, {} attempts failed and were tried again",
        summary.completed,
        begin.elapsed().as_secs_f64(),
        summary.failed
    );
    Ok(())
}
