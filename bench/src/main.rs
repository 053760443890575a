//! backfill beside its peers, on one machine, one database server, in one run.
//!
//! | file | what is in it |
//! | --- | --- |
//! | `contestant` | who takes part, and in which settings |
//! | `child` | what a contestant's process does: fill, work, add; one file for each library |
//! | `floor` | the bare statements in a loop that does nothing else: the limit |
//! | `server` | the database server: fresh databases, and what it has spent |
//! | `process` | starting children, talking to them, and what they have spent |
//! | `cases` | what is measured |
//! | `report` | tables, JSON and the plot |
//!
//! Contestants take turns (A B C A B C …), each run on a database of its own, copied from a template that the contestant filled
//! itself. A job counts as done when the database says so.

mod cases;
mod child;
mod contestant;
mod floor;
mod process;
mod plot;
mod report;
mod server;

use std::path::PathBuf;

use clap::Parser;

type AnyError = Box<dyn std::error::Error + Send + Sync>;
type Result<T, E = AnyError> = std::result::Result<T, E>;

/// Measures backfill beside its peers. Run it with ./scripts/bench peers, which starts the database server.
#[derive(Parser)]
#[command(name = "backfill-bench")]
struct Options {
    /// The cases to run; all of them if none is named. --list names them.
    cases: Vec<String>,
    /// List the cases.
    #[arg(long)]
    list: bool,
    /// How often each contestant has its turn.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How many jobs are drained and enqueued.
    #[arg(long, default_value_t = 200_000)]
    jobs: usize,
    /// Only these contestants (comma separated): ours, node, node-best, gw, gw-best, river, river-best, floor,
    /// sqlite, sqlite-floor.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// A run that has not ended after so many seconds is counted by what it did until then.
    #[arg(long, default_value_t = 12)]
    cap: u64,
    /// Where results.json and drain.svg are written; nowhere if not given.
    #[arg(long)]
    out: Option<PathBuf>,
    /// The server, as a superuser.
    #[arg(long, env = "BACKFILL_BENCH_DATABASE_URL", hide_env_values = true)]
    url: String,
    /// The server's data directory.
    #[arg(long, env = "BACKFILL_BENCH_DATA")]
    data: PathBuf,
}

fn main() -> Result<()> {
    if let Ok(told) = std::env::var(process::TOLD) {
        return child::run(&serde_json::from_str(&told)?);
    }
    let options = Options::parse();
    if options.list {
        for case in cases::all() {
            println!("{:<22} {}", case.name, case.about);
        }
        return Ok(());
    }
    tokio::runtime::Runtime::new()?.block_on(cases::run(options))
}
