//! Durable workflows of backfill beside their peers, on one machine, one database server, in one run.
//!
//! | file | what is in it |
//! | --- | --- |
//! | `cases` | what is measured, and by whom |
//! | `child` | what a contestant's process does |
//! | `who` | the contestants; Python's is `peer.py` |
//! | `process` | starting children, and talking to them |
//! | `server` | the database server: fresh databases, and what is in them |
//! | `report` | the tables |
//!
//! Contestants take turns (A B C A B C …), each turn in a new database. A step or a workflow counts when the database says so.

mod cases;
mod child;
mod process;
mod report;
mod server;
mod who;

use clap::Parser;

type AnyError = Box<dyn std::error::Error + Send + Sync>;
type Result<T, E = AnyError> = std::result::Result<T, E>;

/// Measures workflows beside their peers. Run it with ./scripts/bench workflow, which starts the database server.
#[derive(Parser)]
#[command(name = "backfill-bench-workflow")]
struct Options {
    /// The cases to run; all of them if none is named. --list names them.
    cases: Vec<String>,
    /// List the cases.
    #[arg(long)]
    list: bool,
    /// How often each contestant has its turn.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// How many seconds a turn of steps and throughput takes.
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// How many workflows are put into a queue.
    #[arg(long, default_value_t = 5_000)]
    queued: u64,
    /// How many workflows sleep.
    #[arg(long, default_value_t = 100_000)]
    sleepers: u64,
    /// A queue that is not empty after so many seconds is counted by what was done until then.
    #[arg(long, default_value_t = 30)]
    cap: u64,
    /// Only these contestants (comma separated).
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// The server, as a superuser.
    #[arg(long, env = "BACKFILL_BENCH_DATABASE_URL", hide_env_values = true)]
    url: String,
    /// The Python that has dbos; without it, that contestant is left out.
    #[arg(long, env = "BACKFILL_BENCH_PYTHON")]
    python: Option<String>,
}

fn main() -> Result<()> {
    let began = std::time::Instant::now();
    let runtime = tokio::runtime::Runtime::new()?;
    if let Some(told) = child::Told::from_environment()? {
        return runtime.block_on(child::run(&told, began));
    }
    let options = Options::parse();
    if options.list {
        for case in cases::ALL {
            println!("{:<22} {}", case.name, case.about);
        }
        return Ok(());
    }
    runtime.block_on(cases::run(&options))
}
