//! The fault suite: kill anything at any moment, and count what became of every job.
//!
//! Real worker processes (this program, started again), real PostgreSQL clusters, and a proxy between them. The handlers write
//! every start and finish into a *witness*, a cluster that no fault hits. Whatever a case does, in the end:
//!
//! - every accepted job has finished;
//! - no finished job was started again after its settlement was acknowledged;
//! - no job was started more than once per fault besides its first start;
//! - no queue is locked, and nothing is left in the table that could still run.
//!
//! `./scripts/test faults` runs all cases at full length, one after the other; `./scripts/test` runs them bounded, a few side by side:
//! most of the time they wait for what is dead to be missed.

#![allow(clippy::assigning_clones, clippy::format_push_string, reason = "a test's remarks need not be fast")]

mod cases;
mod cluster;
mod proxy;
mod scene;
#[path = "../support/mod.rs"]
mod support;
mod worker;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{CellAlignment, Table};

use cases::{Case, Ground, Scale};
use cluster::Cluster;
use scene::Outcome;
use tokio::task::JoinSet;

const HELP: &str = "\
The fault suite. Run it with ./scripts/test faults, which finds PostgreSQL.

  faults [--bounded] [--report FILE] [CASE...]

  CASE            only cases whose name contains one of these
  --bounded       shorter outages and fewer repetitions, as in CI
  --list          the names of the cases
  --report FILE   put the table of results into this file, between its marks

Exit status: 0 if every case held, 1 if not.";

fn main() {
    if let Ok(told) = std::env::var(worker::TOLD) {
        worker::run(&told);
        return;
    }
    let mut scale = if std::env::var_os("BACKFILL_FAULTS_FULL").is_some() { Scale::Full } else { Scale::Bounded };
    let mut report = std::env::var("BACKFILL_FAULTS_REPORT").ok();
    let mut wanted = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--help" | "-h" => return println!("{HELP}"),
            "--list" => return cases::all().iter().for_each(|case| println!("{}", case.name)),
            "--bounded" => scale = Scale::Bounded,
            "--report" => report = arguments.next(),
            // What the test runner says to every test program.
            other if other.starts_with("--") => {}
            name => wanted.push(name.to_owned()),
        }
    }
    let matches = |case: &Case| wanted.is_empty() || wanted.iter().any(|name| case.name.contains(name.as_str()));
    let cases: Vec<Case> = cases::all().into_iter().filter(matches).collect();
    let mut possible = Vec::new();
    for case in cases {
        match case.wants() {
            None => possible.push(case),
            Some(what) => eprintln!("{} ... LEFT OUT: there is no {what}", case.name),
        }
    }
    let cases = possible;
    // Somebody looks for tests of another name.
    if cases.is_empty() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let held = runtime.block_on(run(cases, scale, report));
    runtime.shutdown_timeout(Duration::from_secs(5));
    if !held {
        std::process::exit(1);
    }
}

async fn run(cases: Vec<Case>, scale: Scale, report: Option<String>) -> bool {
    let witness = Arc::new(Cluster::start_new(&["max_connections=1000", "synchronous_commit=off"]).await);
    let lanes = scale.lanes().min(cases.len());
    let queue = Arc::new(Mutex::new(cases.iter().copied().enumerate().collect::<VecDeque<_>>()));
    let lanes: JoinSet<_> = (0..lanes).map(|_| lane(Arc::clone(&queue), Arc::clone(&witness), scale)).collect();
    let mut ended: Vec<(usize, String, Option<Outcome>)> = lanes.join_all().await.into_iter().flatten().collect();
    ended.sort_by_key(|(place, ..)| *place);
    let mut table = Table::new();
    table.load_preset(ASCII_MARKDOWN);
    table.set_header(["case", "jobs", "starts", "faults", "recovered after", "took", "remark"]);
    for column in 1..=5 {
        table.column_mut(column).expect("a column").set_cell_alignment(CellAlignment::Right);
    }
    let mut failed = Vec::new();
    for (place, took, outcome) in ended {
        match outcome {
            Some(outcome) => drop(table.add_row(row(&cases[place], &outcome, took))),
            None => failed.push(cases[place].name),
        }
    }
    println!("{table}");
    if let Some(file) = report.filter(|_| failed.is_empty()) {
        write_report(&file, &table.to_string());
    }
    if !failed.is_empty() {
        eprintln!("{} of {} cases failed: {}", failed.len(), cases.len(), failed.join(", "));
    }
    failed.is_empty()
}

/// Runs cases one after the other, on a cluster of its own, until there are none.
async fn lane(
    queue: Arc<Mutex<VecDeque<(usize, Case)>>>,
    witness: Arc<Cluster>,
    scale: Scale,
) -> Vec<(usize, String, Option<Outcome>)> {
    let subject = Arc::new(Cluster::start_new(&["max_connections=600"]).await);
    let ground = Arc::new(Ground { subject, witness, scale });
    let mut ended = Vec::new();
    loop {
        let next = queue.lock().expect("lock").pop_front();
        let Some((place, case)) = next else { return ended };
        let begun = Instant::now();
        // A case that does not hold panics.
        let outcome = tokio::spawn((case.run)(Arc::clone(&ground))).await;
        let took = format!("{:.1} s", begun.elapsed().as_secs_f64());
        match &outcome {
            Ok(_) => eprintln!("{} ... held ({took})", case.name),
            Err(error) => eprintln!("{} ... FAILED ({took}): {error}", case.name),
        }
        ended.push((place, took, outcome.ok()));
    }
}

fn row(case: &Case, outcome: &Outcome, took: String) -> Vec<String> {
    let recovery = outcome.recovery.map_or_else(String::new, |time| format!("{:.1} s", time.as_secs_f64()));
    vec![
        case.name.replace('_', " "),
        outcome.jobs.to_string(),
        outcome.starts.to_string(),
        outcome.faults.to_string(),
        recovery,
        took,
        outcome.remark.clone(),
    ]
}

/// Puts the table between the marks of a document.
fn write_report(file: &str, table: &str) {
    const MARKS: (&str, &str) = ("<!-- results -->\n", "<!-- end of results -->");
    let text = std::fs::read_to_string(file).expect("the report's file");
    let (before, rest) = text.split_once(MARKS.0).expect("a mark where the results begin");
    let (_, after) = rest.split_once(MARKS.1).expect("a mark where the results end");
    let text = format!("{before}{}{table}\n{}{after}", MARKS.0, MARKS.1);
    std::fs::write(file, text).expect("write the report");
}
