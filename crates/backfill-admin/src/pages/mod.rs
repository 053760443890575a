//! The pages: each is whole without scripts. Links are relative, so a page needs to know only how deep it stands.

mod actions;
mod job;
mod jobs;
mod lists;
mod overview;

use std::sync::Arc;

use askama::Template;
use axum::Router;
use axum::extract::OriginalUri;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use backfill::storage::Tally;
use backfill::text::visible;
use backfill::{JobState, explain};
use chrono::{DateTime, Utc};

use crate::gate::Caller;
use crate::principal::Permission;
use crate::problem::Problem;
use crate::{Shared, assets, show};

pub(crate) fn router() -> Router<Arc<Shared>> {
    Router::new()
        .route("/", get(root))
        .route("/overview", get(overview::page))
        .route("/jobs", get(jobs::page))
        .route("/jobs/act", post(actions::on_ticked))
        .route("/jobs/{id}", get(job::page))
        .route("/jobs/{id}/{act}", post(actions::on_one))
        .route("/queues", get(lists::queues))
        .route("/tasks", get(lists::tasks))
        .route("/workers", get(lists::workers))
        .route("/workers/{id}/unlock", post(actions::unlock))
        .route("/crontabs", get(lists::crontabs))
        .route("/doctor", get(lists::doctor))
}

/// What stands around each page.
pub(crate) struct Frame {
    /// What leads to the root from here.
    root: &'static str,
    here: &'static str,
    name: String,
    colour: Option<String>,
    storage: String,
    version: &'static str,
    caller: String,
    read_only: bool,
    now: String,
    assets: [&'static str; 3],
}

impl Frame {
    fn of(shared: &Shared, caller: &Caller, here: &'static str, root: &'static str, now: DateTime<Utc>) -> Self {
        Self {
            root,
            here,
            name: visible(&shared.name()),
            colour: shared.settings.colour.clone(),
            storage: visible(&shared.client().storage().name()),
            version: env!("CARGO_PKG_VERSION"),
            caller: visible(&caller.0.name),
            read_only: shared.settings.read_only,
            now: now.format("%Y-%m-%d %H:%M:%S").to_string(),
            assets: assets::names(),
        }
    }

    /// Whether this is one of the places in the navigation.
    fn is(&self, here: &str) -> bool {
        self.here == here
    }
}

/// A button, and why it cannot be pressed if it cannot.
struct Button {
    act: &'static str,
    word: &'static str,
    refused: Option<String>,
}

impl Button {
    fn of(shared: &Shared, caller: &Caller, act: &'static str, word: &'static str, permission: Permission) -> Self {
        let refused = if shared.settings.read_only {
            Some("this page is read-only".to_owned())
        } else if caller.may(permission) {
            None
        } else {
            Some(format!("this takes the permission {:?}", permission.as_str()))
        };
        Self { act, word, refused }
    }
}

/// The number of a state, and what leads to its jobs.
struct StateCount {
    state: &'static str,
    icon: &'static str,
    number: String,
}

fn state_counts(tally: &Tally) -> Vec<StateCount> {
    let count = |state: JobState| StateCount {
        state: state.as_str(),
        icon: show::icon(state),
        number: show::number(tally.get(state)),
    };
    JobState::ALL.into_iter().map(count).collect()
}

/// Whether live workers run this task, if that is known.
fn serving(workers: &[backfill::WorkerInfo], task: &str) -> Option<usize> {
    let live: Vec<_> = workers.iter().filter(|worker| explain::is_live(worker) && explain::runs_jobs(worker)).collect();
    if live.iter().any(|worker| worker.tasks.is_none()) {
        return None;
    }
    Some(live.iter().filter(|worker| worker.tasks.iter().flatten().any(|served| served == task)).count())
}

/// A page, or a page that says why there is none.
pub(crate) type Page = Result<Response, Whole>;

/// A problem as a page.
pub(crate) struct Whole(Problem);

impl<E: Into<Problem>> From<E> for Whole {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Whole {
    fn into_response(self) -> Response {
        plain(&self.0)
    }
}

#[derive(Template)]
#[template(path = "problem.html")]
struct ProblemPage<'a> {
    title: &'a str,
    status: u16,
    detail: String,
}

/// A page that needs nothing but the problem.
pub(crate) fn plain(problem: &Problem) -> Response {
    let page =
        ProblemPage { title: problem.title(), status: problem.status.as_u16(), detail: visible(&problem.detail) };
    (problem.status, html(&page)).into_response()
}

fn html<T: Template>(page: &T) -> Response {
    match page.render() {
        Ok(text) => Html(text).into_response(),
        Err(error) => {
            tracing::error!(%error, "a page could not be written");
            (StatusCode::INTERNAL_SERVER_ERROR, "this page could not be written").into_response()
        }
    }
}

/// Behind every other route.
pub(crate) async fn nothing_here(OriginalUri(asked): OriginalUri) -> Response {
    plain(&Problem::missing(format!("there is no page {:?} here", visible(asked.path()))))
}

/// The root leads to the first page. It is none itself: where a router is nested, its root has no slash at its end, and every relative link
/// would lead elsewhere.
async fn root(OriginalUri(asked): OriginalUri) -> Response {
    let last = asked.path().rsplit('/').next().unwrap_or_default();
    to(&if last.is_empty() { "overview".to_owned() } else { format!("{last}/overview") })
}

/// To another page: the address is relative to the one that was asked for.
fn to(place: &str) -> Response {
    match axum::http::HeaderValue::from_str(place) {
        Ok(place) => (StatusCode::SEE_OTHER, [(header::LOCATION, place)]).into_response(),
        Err(_) => plain(&Problem::bad("there is no way back to such a page")),
    }
}

/// What goes into an address behind a `?`.
fn query_of(pairs: &[(&str, &str)]) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    for (name, value) in pairs.iter().filter(|(_, value)| !value.is_empty()) {
        query.append_pair(name, value);
    }
    query.finish()
}
