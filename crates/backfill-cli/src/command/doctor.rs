//! `backfill doctor`.

use backfill::storage::Verdict;
use serde_json::json;

use crate::args::Global;
use crate::database;
use crate::failure::Failure;
use crate::output::Output;

pub async fn run(global: &Global, output: &Output) -> Result<(), Failure> {
    let checked = database::storage(global).await?.diagnose().await;
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
