//! Queues, tasks, workers, crontabs, and what the doctor finds.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Query as Asked, State};
use backfill::explain::is_live;
use backfill::search::{Pattern, Query, Test};
use backfill::storage::{CheckStatus, Counts, Number, Precision, Tally};
use backfill::text::{length, relative, visible};
use backfill::{JobState, WorkerInfo};
use chrono::{DateTime, Utc};
use serde::Deserialize;

use super::overview::of_task;
use super::{Button, Frame, Page, html, query_of, serving};
use crate::api::{QueuesQuery, Said};
use crate::gate::Caller;
use crate::principal::Permission;
use crate::{Shared, show};

/// A name, and how many jobs it has in each state.
struct Counted {
    name: String,
    query: String,
    numbers: Vec<String>,
    more: String,
    warning: bool,
}

fn numbers(counts: &Counts, precision: Precision) -> Vec<String> {
    let tally = Tally::of(counts, precision);
    JobState::ALL.into_iter().map(|state| show::number(tally.get(state))).collect()
}

#[derive(Template)]
#[template(path = "queues.html")]
struct Queues {
    frame: Frame,
    name: String,
    rows: Vec<Counted>,
    next: Option<String>,
    uncounted: bool,
}

pub(super) async fn queues(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    Said(Asked(asked)): Said<Asked<QueuesQuery>>,
) -> Page {
    caller.need(Permission::View)?;
    let now = shared.looks.now().await?;
    let list = asked.list()?;
    let queues = shared.looks.queues(&list).await?;
    let name = asked.name.clone().unwrap_or_default();
    let is_full = list.limit.is_some_and(|limit| queues.len() >= limit as usize);
    let next = queues.last().filter(|_| is_full).map(|last| query_of(&[("name", &name), ("after", &last.name)]));
    let rows = queues.iter().map(|queue| Counted {
        name: visible(&queue.name),
        query: query_of(&[("q", &Query::all().and(Test::Queue(Pattern::Exact(queue.name.clone()))).to_string())]),
        numbers: numbers(&queue.jobs, queue.precision),
        more: match (&queue.locked_by, queue.locked_at) {
            (Some(by), Some(at)) => format!("held by {} since {}", visible(by), relative(at, now)),
            _ => String::new(),
        },
        warning: false,
    });
    let uncounted = queues.iter().any(|queue| queue.precision == Precision::Unknown);
    let frame = Frame::of(&shared, &caller, "queues", "./", now);
    Ok(html(&Queues { frame, name, rows: rows.collect(), next, uncounted }))
}

#[derive(Template)]
#[template(path = "tasks.html")]
struct Tasks {
    frame: Frame,
    rows: Vec<Counted>,
}

pub(super) async fn tasks(State(shared): State<Arc<Shared>>, caller: Caller) -> Page {
    caller.need(Permission::View)?;
    let now = shared.looks.now().await?;
    let workers = shared.looks.workers().await?;
    let tasks = shared.looks.tasks().await?;
    let rows = tasks.iter().map(|task| {
        let served = serving(&workers, &task.name);
        let waits = task.jobs.ready + task.jobs.scheduled + task.jobs.retrying > 0;
        Counted {
            name: visible(&task.name),
            query: query_of(&[("q", &of_task(&task.name))]),
            numbers: numbers(&task.jobs, task.precision),
            more: match served {
                None => "?".to_owned(),
                Some(0) if waits => "nobody of backfill's".to_owned(),
                Some(count) => count.to_string(),
            },
            warning: served == Some(0) && waits && !workers.is_empty(),
        }
    });
    Ok(html(&Tasks { rows: rows.collect(), frame: Frame::of(&shared, &caller, "tasks", "./", now) }))
}

#[derive(Template)]
#[template(path = "workers.html")]
struct Workers {
    frame: Frame,
    rows: Vec<WorkerRow>,
    said: Option<String>,
    /// Whether workers may be missing, since not all jobs are read.
    partly: bool,
    unlock: Button,
}

struct WorkerRow {
    id: String,
    path: String,
    query: String,
    started: String,
    seen: String,
    late: bool,
    jobs: String,
    slots: String,
    oldest: String,
    tasks: String,
}

#[derive(Default, Deserialize)]
pub(super) struct Released {
    released: Option<u64>,
}

pub(super) async fn workers(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    Said(Asked(told)): Said<Asked<Released>>,
) -> Page {
    caller.need(Permission::View)?;
    let now = shared.looks.now().await?;
    let (workers, tally) = tokio::try_join!(shared.looks.workers(), shared.looks.tally())?;
    let rows = workers.iter().map(|worker| worker_row(worker, now)).collect();
    let page = Workers {
        frame: Frame::of(&shared, &caller, "workers", "./", now),
        rows,
        said: told.released.map(|released| format!("{} jobs were released.", show::grouped(released))),
        partly: tally.running.precision != Precision::Exact,
        unlock: Button::of(&shared, &caller, "unlock", "Release what it holds", Permission::Unlock),
    };
    Ok(html(&page))
}

fn worker_row(worker: &WorkerInfo, now: DateTime<Utc>) -> WorkerRow {
    WorkerRow {
        id: visible(&worker.id),
        path: form_urlencoded::byte_serialize(worker.id.as_bytes()).collect::<String>().replace('+', "%20"),
        query: query_of(&[("q", &Query::all().and(Test::Worker(Pattern::Exact(worker.id.clone()))).to_string())]),
        started: worker.started_at.map(|time| relative(time, now)).unwrap_or_default(),
        seen: match worker.last_seen_ago {
            Some(ago) => format!("{} ago", length(std::time::Duration::from_secs(ago.as_secs()))),
            None => "sends no heartbeats (Node)".to_owned(),
        },
        late: worker.last_seen_ago.is_some() && !is_live(worker),
        jobs: show::number(Number::new(worker.jobs, worker.precision)),
        slots: worker
            .status
            .as_ref()
            .map(|status| format!("{} of {}", status.running, status.concurrency))
            .unwrap_or_default(),
        oldest: worker.oldest_lock.map(|time| relative(time, now)).unwrap_or_default(),
        tasks: worker.tasks.as_ref().map(|tasks| visible(&tasks.join(" "))).unwrap_or_default(),
    }
}

#[derive(Template)]
#[template(path = "crontabs.html")]
struct Crontabs {
    frame: Frame,
    rows: Vec<CrontabRow>,
}

struct CrontabRow {
    identifier: String,
    since: String,
    last: String,
}

pub(super) async fn crontabs(State(shared): State<Arc<Shared>>, caller: Caller) -> Page {
    caller.need(Permission::View)?;
    let now = shared.looks.now().await?;
    let known = shared.client().crontabs().await?;
    let rows = known.iter().map(|known| CrontabRow {
        identifier: visible(&known.identifier),
        since: relative(known.known_since, now),
        last: known.last_execution.map_or_else(
            || "never".to_owned(),
            |time| format!("{} UTC ({})", time.format("%Y-%m-%d %H:%M:%S"), relative(time, now)),
        ),
    });
    Ok(html(&Crontabs { rows: rows.collect(), frame: Frame::of(&shared, &caller, "crontabs", "./", now) }))
}

#[derive(Template)]
#[template(path = "doctor.html")]
struct Doctor {
    frame: Frame,
    rows: Vec<Finding>,
    found: usize,
}

struct Finding {
    what: String,
    word: &'static str,
    icon: &'static str,
    text: String,
    remedy: String,
}

pub(super) async fn doctor(State(shared): State<Arc<Shared>>, caller: Caller) -> Page {
    caller.need(Permission::View)?;
    let now = shared.looks.now().await?;
    let checks = shared.looks.findings().await?;
    let rows: Vec<Finding> = checks
        .into_iter()
        .map(|check| {
            let (word, icon, text, remedy) = match check.status {
                CheckStatus::Fine { detail } => ("fine", "✓", detail, String::new()),
                CheckStatus::Found { problem, remedy } => ("found", "✕", problem, remedy),
                CheckStatus::Skipped { why } => ("skipped", "–", why, String::new()),
            };
            Finding { what: check.what.to_owned(), word, icon, text: visible(&text), remedy: visible(&remedy) }
        })
        .collect();
    let found = rows.iter().filter(|row| row.word == "found").count();
    Ok(html(&Doctor { rows, found, frame: Frame::of(&shared, &caller, "doctor", "./", now) }))
}
