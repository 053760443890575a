//! `backfill crontab check`.

use std::io::Read;
use std::path::Path;

use backfill::cron::{CronEntry, zone_data};
use backfill::{Crontab, Error};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use crate::args::CrontabCommand;
use crate::failure::{Failure, failed};
use crate::output::{Output, rfc3339, visible};
use crate::table::{Column, Table};

pub fn run(output: &Output, command: &CrontabCommand) -> Result<(), Failure> {
    let CrontabCommand::Check { file, next } = command;
    match read(file)?.parse::<Crontab>() {
        Ok(crontab) => due(output, &crontab, *next),
        Err(Error::InvalidCrontab(problems)) => {
            if output.is_json() {
                let told: Vec<Value> = problems
                    .iter()
                    .map(|problem| {
                        json!({
                            "line": problem.line,
                            "column": problem.column,
                            "text": problem.text,
                            "problem": problem.problem,
                        })
                    })
                    .collect();
                output.json(&json!({ "problems": told }))?;
            } else {
                for problem in &problems {
                    output.line(visible(&format!("{}: {problem}", file.display())))?;
                }
            }
            Err(Failure::Told)
        }
        Err(error) => Err(error.into()),
    }
}

fn read(file: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    if file.as_os_str() == "-" {
        std::io::stdin().lock().read_to_string(&mut text)?;
        return Ok(text);
    }
    std::fs::read_to_string(file).map_err(|error| failed(format!("could not read {}: {error}", file.display())))
}

fn due(output: &Output, crontab: &Crontab, next: usize) -> Result<(), Failure> {
    let now = Utc::now();
    let times = |entry: &CronEntry| -> Vec<DateTime<Utc>> {
        std::iter::successors(entry.schedule.next_after(now), |last| entry.schedule.next_after(*last))
            .take(next)
            .collect()
    };
    if output.is_json() {
        let told = crontab.entries().iter().map(|entry| {
            json!({
                "identifier": entry.identifier,
                "task": entry.task,
                "schedule": entry.schedule.to_string(),
                "fill_seconds": entry.backfill.as_secs(),
                "next": times(entry).into_iter().map(rfc3339).collect::<Vec<_>>(),
            })
        });
        return output.json(&json!({ "entries": told.collect::<Vec<_>>(), "time_zones": zone_data().to_string() }));
    }
    if crontab.entries().is_empty() {
        return output.line("no entries");
    }
    let mut table = Table::new([
        ("IDENTIFIER", Column::Text),
        ("TASK", Column::Text),
        ("SCHEDULE", Column::Text),
        ("NEXT (UTC)", Column::Text),
    ]);
    for entry in crontab.entries() {
        let times: Vec<String> =
            times(entry).into_iter().map(|time| time.format("%a %Y-%m-%d %H:%M:%S").to_string()).collect();
        let times = if times.is_empty() && next > 0 { "never".to_owned() } else { times.join(", ") };
        table.row([
            entry.identifier.as_str().into(),
            entry.task.as_str().into(),
            entry.schedule.to_string().into(),
            times.into(),
        ]);
    }
    output.line(table.text(&output.screen()))?;
    if crontab.entries().iter().any(|entry| entry.schedule.time_zone() != "UTC") {
        output.line(format!("time zones: {}", zone_data()))?;
    }
    Ok(())
}
