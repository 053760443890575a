//! The first page: how things are.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use backfill::storage::{Number, Precision};
use backfill::text::{relative, visible};

use super::jobs::Row;
use super::{Frame, Page, StateCount, html, query_of, serving, state_counts};
use crate::gate::Caller;
use crate::looks::{self, JobsQuery};
use crate::principal::Permission;
use crate::{Shared, show};

#[derive(Template)]
#[template(path = "overview.html")]
struct Overview {
    frame: Frame,
    states: Vec<StateCount>,
    workers: String,
    problems: Vec<String>,
    tasks: Vec<TaskLine>,
    dead: Vec<Row>,
}

struct TaskLine {
    name: String,
    query: String,
    ready: String,
    scheduled: String,
    running: String,
    retrying: String,
    dead: String,
    oldest: String,
}

pub(super) async fn page(State(shared): State<Arc<Shared>>, caller: Caller) -> Page {
    caller.need(Permission::View)?;
    let now = shared.looks.now().await?;
    let looks = &shared.looks;
    let (tally, workers, mut tasks) = tokio::try_join!(looks.tally(), looks.workers(), looks.tasks())?;
    let mut problems = Vec::new();
    for task in &tasks {
        let waiting = task.jobs.ready + task.jobs.retrying + task.jobs.scheduled;
        if waiting > 0 && !workers.is_empty() && serving(&workers, &task.name) == Some(0) {
            let (jobs, wait) = if waiting == 1 { ("job", "waits") } else { ("jobs", "wait") };
            let waiting = show::number(Number::new(waiting, task.precision));
            problems.push(format!(
                "{waiting} {jobs} of {} {wait}, and no live worker of backfill's runs it",
                visible(&task.name)
            ));
        }
    }
    problems.truncate(10);
    tasks.retain(|task| task.jobs.total() > 0 || task.precision == Precision::Unknown);
    tasks.sort_by_key(|task| std::cmp::Reverse(task.jobs.ready + task.jobs.running + task.jobs.retrying));
    let line = |task: &backfill::TaskInfo| {
        let number = |value| show::number(Number::new(value, task.precision));
        TaskLine {
            name: visible(&task.name),
            query: query_of(&[("q", &of_task(&task.name))]),
            ready: number(task.jobs.ready),
            scheduled: number(task.jobs.scheduled),
            running: number(task.jobs.running),
            retrying: number(task.jobs.retrying),
            dead: number(task.jobs.dead),
            oldest: task.oldest_ready.map(|time| relative(time, now)).unwrap_or_default(),
        }
    };
    let dead = JobsQuery { q: "state:dead".to_owned(), limit: Some(5), ..JobsQuery::default() };
    let dead = looks::jobs(&shared, &caller, &dead, false).await?;
    let running = workers.iter().map(|worker| worker.jobs).sum();
    let page = Overview {
        frame: Frame::of(&shared, &caller, "overview", "./", now),
        states: state_counts(&tally),
        workers: match workers.len() {
            0 => "no worker is known".to_owned(),
            1 => format!("1 worker holds {}", show::jobs(running)),
            count => format!("{count} workers hold {}", show::jobs(running)),
        },
        problems,
        tasks: tasks.iter().take(10).map(line).collect(),
        dead: dead.found.jobs.iter().map(|job| Row::of(job, now)).collect(),
    };
    Ok(html(&page))
}

/// The search for the jobs of a task.
pub(super) fn of_task(name: &str) -> String {
    use backfill::search::{Pattern, Query, Test};
    Query::all().and(Test::Task(vec![Pattern::Exact(name.to_owned())])).to_string()
}
