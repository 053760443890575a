//! The programs of docs/comparison.md: ours compile and run, and its table is counted.

use std::collections::BTreeSet;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};

use backfill::{BackfillClient, TaskPayload};
use serde::{Deserialize, Serialize};

mod cron;
mod first_job;
mod graceful_stop;
mod in_a_transaction;
mod retry_policy;
mod scheduled;
mod serial;
mod testing;
mod typed_payload;
mod unique;

// --- What the page says is given

#[derive(Serialize, Deserialize, TaskPayload)]
struct SendInvoice {
    order: i64,
}

#[derive(Serialize, Deserialize, TaskPayload)]
struct SyncAccount {
    account: i64,
}

async fn send_invoice(job: SendInvoice) -> Result<(), std::io::Error> {
    if job.order < 0 { Err(std::io::Error::other("no order has this number")) } else { Ok(()) }
}

async fn place_order(jobs: &BackfillClient, order: i64) -> Result<(), Box<dyn Error>> {
    jobs.add(SendInvoice { order }).await?;
    Ok(())
}

#[derive(Clone, Default)]
struct Mailer(Arc<Mutex<Vec<u64>>>);

impl Mailer {
    async fn send(&self, order: u64) -> Result<(), std::io::Error> {
        tokio::task::yield_now().await;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(order);
        Ok(())
    }

    fn sent(&self) -> Vec<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

// --- The page

const PAGE: &str = include_str!("../../docs/comparison.md");
const LIBRARIES: [&str; 3] = ["backfill", "riverqueue", "graphile_worker"];
const OURS: [&str; 10] = [
    include_str!("first_job.rs"),
    include_str!("typed_payload.rs"),
    include_str!("in_a_transaction.rs"),
    include_str!("retry_policy.rs"),
    include_str!("unique.rs"),
    include_str!("scheduled.rs"),
    include_str!("cron.rs"),
    include_str!("serial.rs"),
    include_str!("testing.rs"),
    include_str!("graceful_stop.rs"),
];

/// A program of the page, and the names of its library that it uses.
struct Program<'a> {
    code: &'a str,
    names: Vec<&'a str>,
}

/// The part of the page about one task, and its programs; `None` where the page says that there is none.
fn programs(section: &str) -> Vec<Option<Program<'_>>> {
    LIBRARIES.map(|library| program(section, library)).into()
}

fn program<'a>(section: &'a str, library: &str) -> Option<Program<'a>> {
    let part = section.split_once(&format!("\n**{library}**")).unwrap_or_else(|| panic!("{library}: {section}")).1;
    let part = part.split("\n**").next().expect("a part");
    let code = part.split_once("```rust").and_then(|(_, rest)| rest.split_once('\n')?.1.split_once("\n```"))?.0;
    let names = part.split_once("\nNames: ").expect("names").1;
    let names = names.split("\n\n").next().expect("names").trim_end_matches(['.', '\n']);
    Some(Program { code, names: names.split(',').map(|name| name.trim().trim_matches('`')).collect() })
}

fn sections() -> Vec<&'static str> {
    let sections: Vec<&str> =
        PAGE.split("\n## ").filter(|part| part.starts_with(|c: char| c.is_ascii_digit())).collect();
    assert_eq!(sections.len(), OURS.len());
    sections
}

fn lines(code: &str) -> usize {
    code.lines().filter(|line| !line.trim().is_empty()).count()
}

#[test]
fn our_programs_are_those_that_are_compiled() {
    for (section, ours) in sections().into_iter().zip(OURS) {
        let program = program(section, "backfill").expect("ours");
        assert!(ours.contains(program.code), "not as it is compiled:\n{}", program.code);
    }
}

#[test]
fn the_names_that_are_counted_are_in_their_programs_and_differ() {
    for program in sections().into_iter().flat_map(programs).flatten() {
        let words: BTreeSet<&str> = program.code.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
        for name in &program.names {
            assert!(words.contains(name), "{name:?} is not in\n{}", program.code);
        }
        assert_eq!(program.names.iter().collect::<BTreeSet<_>>().len(), program.names.len(), "{:?}", program.names);
    }
}

#[test]
fn the_readme_tells_the_lines_of_a_first_job() {
    let first = programs(sections()[0]).into_iter().flatten().map(|program| lines(program.code));
    let [ours, river, graphile]: [usize; 3] = first.collect::<Vec<_>>().try_into().expect("three");
    let said = format!("a first job takes {ours} lines here, and {graphile} and {river} there");
    assert!(include_str!("../../README.md").contains(&said), "{said}");
}

#[test]
fn the_table_is_what_the_programs_count() {
    let cell = |program: Option<Program>| {
        program.map_or("none".to_owned(), |it| format!("{}, {}", lines(it.code), it.names.len()))
    };
    let row = |section: &str| {
        let cells: Vec<String> = programs(section).into_iter().map(cell).collect();
        format!("| {} | {} |\n", section.lines().next().expect("a title"), cells.join(" | "))
    };
    let table: String = sections().into_iter().map(row).collect();
    assert!(PAGE.contains(&table), "the table should be\n{table}");
}
