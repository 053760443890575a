//! A few hundred jobs of several kinds, a worker, live progress and a summary.
//!
//! ```sh
//! cargo run -p quickstart                                         # in an SQLite file of its own, with nothing installed
//! DATABASE_URL=postgres://localhost/app cargo run -p quickstart   # the same in PostgreSQL
//! ```

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write, stdout};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use backfill::sqlite;
use backfill::{
    BackfillClient, Counts, JobContext, JobKeyMode, JobSpec, Priority, RetryPolicy, TaskPayload, Worker, handler_with,
    task_fn,
};

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
    let fails = !email.to.contains('@');
    note(&tally, SendEmail::TASK, fails);
    if fails { Err("not an address") } else { Ok(()) }
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

/// A new file beside the one that the binary uses if no database is named.
fn own_file() -> Result<String, Box<dyn std::error::Error>> {
    const NAME: &str = "quickstart.db";
    let url = sqlite::default_url()?;
    let (directory, _) = url.rsplit_once("jobs.db").ok_or("the default file has another name")?;
    for name in [NAME, "quickstart.db-wal", "quickstart.db-shm"] {
        let file = sqlite::default_path()?.with_file_name(name);
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(format!("could not remove {} of an earlier run: {error}", file.display()).into());
            }
            _ => {}
        }
    }
    Ok(format!("{directory}{NAME}"))
}

/// Draws how far it is, on a terminal.
fn draw(counts: &Counts, total: u64) {
    const WIDTH: u64 = 30;
    if !stdout().is_terminal() {
        return;
    }
    let done = total.saturating_sub(counts.alive());
    let filled = usize::try_from(done * WIDTH / total.max(1)).unwrap_or_default();
    let empty = usize::try_from(WIDTH).unwrap_or_default() - filled;
    print!(
        "\r\x1b[K{}{} {done}/{total}  ready {}, running {}, retrying {}",
        "█".repeat(filled),
        "░".repeat(empty),
        counts.ready,
        counts.running,
        counts.retrying
    );
    // A bar that cannot be drawn is no reason to end.
    let _ = stdout().flush();
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // One that is set and empty is refused below: somebody meant another place.
    let named = std::env::var("DATABASE_URL").ok();
    let url = named.clone().map_or_else(own_file, Ok)?;
    let client = BackfillClient::new(&url).await?;
    println!("storing jobs in {}", client.storage().name());
    if named.is_none() {
        println!("(for PostgreSQL set DATABASE_URL=postgres://user@host/database)");
    }

    // Three hundred at once, checked by the compiler.
    client.add_many((0..300).map(|n| SendEmail { to: format!("user{n}@example.com") })).await?;
    // One that cannot succeed, and is not tried again: it is kept as dead, with its error.
    client.add(SendEmail { to: "nobody".to_owned() }).max_attempts(1).await?;
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
        task_fn(task, move |_: backfill::serde_json::Value, _: JobContext| {
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
    loop {
        let counts = left(&client).await?;
        draw(&counts, total);
        if counts.alive() == 0 || running.is_finished() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    handle.shutdown();
    let summary = running.await??;

    if stdout().is_terminal() {
        println!();
    }
    println!("\n{:<12} {:>6} {:>6}", "TASK", "STARTS", "FAILED");
    if let Ok(tally) = tally.lock() {
        for (task, (starts, failed)) in tally.iter() {
            println!("{task:<12} {starts:>6} {failed:>6}");
        }
    }
    println!(
        "\n{} jobs done in {:.1} s; of the {} attempts that failed, two were tried again, and one leaves a dead job behind",
        summary.completed,
        begin.elapsed().as_secs_f64(),
        summary.failed
    );
    let place = if named.is_none() { format!("-c '{url}' ") } else { String::new() };
    println!("next: a program of your own, 20 lines under \"Your first job\" in README.md;");
    println!("      or the command line, here with the job that is left: cargo run -p backfill-cli -- {place}jobs");
    Ok(())
}
