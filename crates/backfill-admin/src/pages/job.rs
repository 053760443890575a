//! One job.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Query as Asked, State};
use backfill::search::{Pattern, Query, Test};
use backfill::text::{laid_out, relative, visible};
use backfill::{Job, JobId, JobState};
use chrono::{DateTime, Utc};
use serde::Deserialize;

use super::jobs::Told;
use super::overview::of_task;
use super::{Button, Frame, Page, html, query_of};
use crate::api::Said;
use crate::gate::Caller;
use crate::looks::{self, LARGE};
use crate::principal::Permission;
use crate::{Shared, show};

#[derive(Template)]
#[template(path = "job.html")]
struct JobPage {
    frame: Frame,
    id: String,
    task: String,
    task_query: String,
    state: &'static str,
    icon: &'static str,
    words: String,
    why: Vec<String>,
    fields: Vec<Field>,
    error: Option<String>,
    payload: Option<String>,
    payload_note: String,
    whole: bool,
    said: Vec<String>,
    run: Button,
    discard: Button,
    delete: Button,
}

struct Field {
    name: &'static str,
    value: String,
    /// What leads to jobs that are like it.
    query: Option<String>,
}

#[derive(Default, Deserialize)]
pub(super) struct Shown {
    /// Also a large payload.
    #[serde(default)]
    whole: Option<String>,
}

pub(super) async fn page(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    Said(id): Said<JobId>,
    Said(Asked(shown)): Said<Asked<Shown>>,
    Said(Asked(told)): Said<Asked<Told>>,
) -> Page {
    let job = looks::job(&shared, &caller, id).await?;
    let now = shared.looks.now().await?;
    // Whoever may not look at workers does without.
    let why = shared.client().why(id).await.ok().flatten().unwrap_or_default();
    let (job, is_hidden) = looks::shown(&shared, &caller, job);
    let text = job.payload.as_str();
    let is_large = text.len() > LARGE && shown.whole.is_none();
    let payload = (caller.may(Permission::Payload) && !is_large).then(|| visible(&laid_out(text)));
    let payload_note = if !caller.may(Permission::Payload) {
        "You may not see payloads here.".to_owned()
    } else if is_large {
        format!("It has {} bytes.", show::grouped(text.len() as u64))
    } else if is_hidden {
        "Some values are hidden (●●●●).".to_owned()
    } else {
        String::new()
    };
    let state = job.state(now);
    let page = JobPage {
        frame: Frame::of(&shared, &caller, "jobs", "../", now),
        id: job.id.to_string(),
        task: visible(&job.task),
        task_query: query_of(&[("q", &of_task(&job.task))]),
        state: state.as_str(),
        icon: show::icon(state),
        words: in_words(&job, now),
        why: why.iter().map(|reason| visible(&reason.to_string())).collect(),
        fields: fields(&job, now),
        error: job.last_error.as_deref().map(visible),
        payload,
        payload_note,
        whole: is_large,
        said: told.words(),
        run: Button::of(&shared, &caller, "run", "Run now", Permission::Run),
        discard: Button::of(&shared, &caller, "discard", "Make dead", Permission::Discard),
        delete: Button::of(&shared, &caller, "delete", "Delete", Permission::Delete),
    };
    Ok(html(&page))
}

/// What it is doing, as one would say it.
fn in_words(job: &Job, now: DateTime<Utc>) -> String {
    let attempt = format!("attempt {} of {}", job.attempts, job.max_attempts);
    match job.state(now) {
        JobState::Ready => format!("Ready since {}", relative(job.run_at, now).trim_end_matches(" ago")),
        JobState::Scheduled => format!("Due {}", relative(job.run_at, now)),
        JobState::Running => {
            let since = job.locked_at.map(|at| relative(at, now)).unwrap_or_default();
            format!("Runs, {attempt}, begun {since}")
        }
        JobState::Retrying if job.run_at > now => {
            format!("Failed, {attempt}; the next is due {}", relative(job.run_at, now))
        }
        JobState::Retrying => format!("Failed, {attempt}; the next is due"),
        _ => format!("Dead: no attempts left, of {}", job.max_attempts),
    }
}

fn fields(job: &Job, now: DateTime<Utc>) -> Vec<Field> {
    let time = |time: DateTime<Utc>| format!("{} UTC ({})", time.format("%Y-%m-%d %H:%M:%S"), relative(time, now));
    let plain = |name, value| Field { name, value, query: None };
    let like = |name, text: &Option<String>, test: fn(Pattern) -> Test| {
        text.as_ref().map(|text| Field {
            name,
            value: visible(text),
            query: Some(query_of(&[("q", &Query::all().and(test(Pattern::Exact(text.clone()))).to_string())])),
        })
    };
    let mut fields = Vec::new();
    fields.extend(like("Queue", &job.queue, Test::Queue));
    fields.extend(like("Key", &job.key, Test::Key));
    fields.push(plain("Priority", job.priority.0.to_string()));
    fields.push(plain("Attempts", format!("{} of {}", job.attempts, job.max_attempts)));
    if !job.flags.is_empty() {
        fields.push(plain("Flags", visible(&job.flags.join(", "))));
    }
    fields.push(plain("Due", time(job.run_at)));
    fields.push(plain("Created", time(job.created_at)));
    fields.push(plain("Changed", time(job.updated_at)));
    if let Some(at) = job.locked_at {
        fields.push(plain("Held since", time(at)));
    }
    fields.extend(like("Held by", &job.locked_by, Test::Worker));
    fields
}
