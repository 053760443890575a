//! `backfill doctor`.

use backfill::storage::{Checked, Storage, Verdict};
use serde_json::json;

use super::copy;

use crate::args::Global;
use crate::database;
use crate::failure::Failure;
use crate::output::{Output, count_of};

pub async fn run(global: &Global, output: &Output) -> Result<(), Failure> {
    let storage = database::storage(global).await?;
    let mut checked = storage.diagnose().await;
    // A database that cannot be reached, or has nothing in it, has said so.
    if checked.len() > 1 {
        checked.push(moves(&*storage).await);
    }
    let mut found = 0;
    let mut told = Vec::new();
    for check in &checked {
        let what = check.what;
        match &check.verdict {
            Verdict::Found { problem, remedy } => {
                found += 1;
                told.push(json!({ "check": what, "status": "found", "problem": problem, "remedy": remedy }));
                if !output.is_json() {
                    output.line(format!("found    {what}: {problem}\n         remedy: {remedy}"))?;
                }
            }
            Verdict::Skipped { why } => {
                told.push(json!({ "check": what, "status": "skipped", "why": why }));
                if !output.is_json() {
                    output.line(format!("skipped  {what}: {why}"))?;
                }
            }
            Verdict::Fine { detail } => {
                told.push(json!({ "check": what, "status": "fine", "detail": detail }));
                if !output.is_json() {
                    output.line(format!("fine     {what}: {detail}"))?;
                }
            }
        }
    }
    if output.is_json() {
        output.json(&told)?;
    }
    if found == 0 { Ok(()) } else { Err(Failure::Told) }
}

/// Jobs that `backfill copy` has taken out of everybody's reach.
async fn moves(storage: &dyn Storage) -> Checked {
    let verdict = match storage.pools().await {
        Err(error) => Verdict::Skipped { why: error.to_string() },
        Ok(pools) => {
            let held: Vec<String> = pools
                .iter()
                .filter(|pool| copy::is_move(&pool.id))
                .map(|pool| format!("{} are held by the move {}", count_of(pool.jobs, "job"), pool.id))
                .collect();
            if held.is_empty() {
                Verdict::Fine { detail: "no job is on its way to another place".to_owned() }
            } else {
                Verdict::Found {
                    problem: held.join(", "),
                    remedy:
                        "run `backfill copy` again, from here to where they were going, unless it is under way; do not \
                             unlock them: some may have arrived"
                            .to_owned(),
                }
            }
        }
    };
    Checked::new("moves", verdict)
}
