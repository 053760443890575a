//! The list of jobs.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Query as Asked, State};
use backfill::search::{Order, Query, Term, Test};
use backfill::text::{relative, visible};
use backfill::{Job, JobState};
use chrono::{DateTime, Utc};
use serde::Deserialize;

use super::{Button, Frame, Page, StateCount, html, query_of, state_counts};
use crate::api::Said;
use crate::gate::Caller;
use crate::looks::{self, JobsQuery};
use crate::principal::Permission;
use crate::{Shared, show};

#[derive(Template)]
#[template(path = "jobs.html")]
struct Jobs {
    frame: Frame,
    q: String,
    orders: Vec<(&'static str, &'static str, bool)>,
    tabs: Vec<Tab>,
    rows: Vec<Row>,
    said: Vec<String>,
    problem: Option<String>,
    looked: String,
    next: Option<String>,
    /// Where this list is found again.
    back: String,
    buttons: Vec<Button>,
    command: String,
    request: String,
}

struct Tab {
    count: Option<StateCount>,
    query: String,
    here: bool,
}

/// A job in a list.
pub(super) struct Row {
    pub id: String,
    pub state: &'static str,
    pub icon: &'static str,
    pub task: String,
    pub queue: String,
    pub key: String,
    pub priority: i16,
    pub attempts: String,
    pub due: String,
    pub age: String,
    pub error: String,
}

impl Row {
    pub fn of(job: &Job, now: DateTime<Utc>) -> Self {
        let state = job.state(now);
        let text = |text: &Option<String>| text.as_deref().map(|text| show::line(text, 60)).unwrap_or_default();
        Self {
            id: job.id.to_string(),
            state: state.as_str(),
            icon: show::icon(state),
            task: show::line(&job.task, 60),
            queue: text(&job.queue),
            key: text(&job.key),
            priority: job.priority.0,
            attempts: format!("{}/{}", job.attempts, job.max_attempts),
            due: if state == JobState::Dead { String::new() } else { relative(job.run_at, now) },
            age: relative(job.created_at, now),
            error: job.last_error.as_deref().map(|error| show::line(error, 80)).unwrap_or_default(),
        }
    }
}

/// What the last action did, said by the page that it leads back to.
#[derive(Default, Deserialize)]
pub(super) struct Told {
    #[serde(default)]
    pub done: Option<String>,
    #[serde(default)]
    pub changed: Option<u64>,
    #[serde(default)]
    pub left: Option<u64>,
}

impl Told {
    pub fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        let done = self.done.as_deref().and_then(crate::acts::Act::named);
        if let (Some(act), Some(changed)) = (done, self.changed) {
            let jobs = if changed == 1 { "1 job is".to_owned() } else { format!("{changed} jobs are") };
            let done = act.done().replacen("will run", "to run", 1);
            words.push(format!("{jobs} {done}."));
        }
        if let Some(left) = self.left.filter(|left| *left > 0) {
            words.push(format!("{left} left alone: held by a worker, gone, or changed meanwhile."));
        }
        words
    }
}

pub(super) async fn page(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    Said(Asked(asked)): Said<Asked<JobsQuery>>,
    Said(Asked(told)): Said<Asked<Told>>,
) -> Page {
    caller.need(Permission::View)?;
    let now = shared.looks.now().await?;
    let tally = shared.looks.tally().await?;
    let order = asked.order.clone().unwrap_or_default();
    // A search that cannot be made is said beside what was written, so that it can be mended.
    let (query, rows, looked, next, problem) = match looks::jobs(&shared, &caller, &asked, false).await {
        Ok(listed) => {
            let rows: Vec<Row> = listed.found.jobs.iter().map(|job| Row::of(job, now)).collect();
            let of = listed.found.of.map(|of| format!(" of {}", show::number(of))).unwrap_or_default();
            let looked = format!("{} found · looked at {}{of}", rows.len(), show::grouped(listed.found.looked_at));
            (listed.query, rows, looked, listed.next, None)
        }
        Err(problem) if problem.status.is_client_error() => {
            (Query::all(), Vec::new(), String::new(), None, Some(visible(&problem.detail)))
        }
        Err(problem) => return Err(problem.into()),
    };
    let states = query.states();
    let rest: Vec<Term> = query.terms().iter().filter(|term| !matches!(term.test, Test::State(_))).cloned().collect();
    let tab = |count: Option<StateCount>, state: Option<JobState>| {
        let rest: Query = rest.iter().cloned().collect();
        let query = state.map_or(rest.clone(), |state| rest.and(Test::State(vec![state])));
        let here = state.map_or(states.len() == JobState::ALL.len(), |state| states == [state]);
        Tab { count, query: query_of(&[("q", &query.to_string()), ("order", &order)]), here }
    };
    let mut tabs = vec![tab(None, None)];
    tabs.extend(
        state_counts(&tally).into_iter().zip(JobState::ALL).map(|(count, state)| tab(Some(count), Some(state))),
    );
    let limit = asked.limit.map(|limit| limit.to_string()).unwrap_or_default();
    let link = |after: &str| query_of(&[("q", &asked.q), ("order", &order), ("limit", &limit), ("after", after)]);
    let named = |word: &'static str, other: Order| {
        (other.as_str(), word, other.as_str() == order || (order.is_empty() && other == Order::Newest))
    };
    let quoted = asked.q.replace('\'', "'\\''");
    let in_order = if order.is_empty() { "newest" } else { &order };
    let page = Jobs {
        frame: Frame::of(&shared, &caller, "jobs", "./", now),
        orders: vec![
            named("newest first", Order::Newest),
            named("oldest first", Order::Oldest),
            named("in the order of claims", Order::Claim),
        ],
        tabs,
        rows,
        said: told.words(),
        problem,
        looked,
        next: next.map(|next| link(&next)),
        back: link(asked.after.as_deref().unwrap_or_default()),
        buttons: vec![
            Button::of(&shared, &caller, "run", "Run now", Permission::Run),
            Button::of(&shared, &caller, "discard", "Make dead", Permission::Discard),
            Button::of(&shared, &caller, "delete", "Delete", Permission::Delete),
        ],
        command: format!("backfill jobs --order {in_order} --limit 50 --where '{}'", visible(&quoted)),
        request: format!("GET api/v1/jobs?{}", link("")),
        q: asked.q.clone(),
    };
    Ok(html(&page))
}
