//! The API: JSON under `api/v1`. Times are RFC 3339 in UTC, payloads are as they were added but for what is hidden.
//!
//! | resource | what |
//! | --- | --- |
//! | `GET /` | name, version, storage, capabilities, what the caller may do, the storage's time |
//! | `GET /jobs?q=&order=&after=&limit=` | a page of jobs, and how far was looked for it |
//! | `GET /jobs/{id}`, `GET /jobs/{id}/why` | one job; why it does not run |
//! | `POST /jobs/{id}/run`, `POST /jobs/{id}/discard`, `DELETE /jobs/{id}` | 409 with the reason if it was left alone |
//! | `GET /counts`, `/tasks`, `/queues?name=&after=&limit=`, `/workers`, `/crontabs`, `/doctor` | each number says how well it is known |
//! | `POST /workers/{id}/unlock` | with `{"confirm": "the id"}` |
//!
//! Errors are `application/problem+json` (RFC 9457).

use std::sync::Arc;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRequestParts, Path, Query, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use backfill::JobId;
use backfill::job::JobWithState;
use backfill::search::Pattern;
use backfill::storage::{Effort, Number, QueueList};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::Shared;
use crate::acts::{self, Act};
use crate::gate::Caller;
use crate::looks::{self, JobsQuery};
use crate::principal::Permission;
use crate::problem::{Answer, Problem};

type App = State<Arc<Shared>>;

pub(crate) fn router() -> Router<Arc<Shared>> {
    Router::new()
        .route("/jobs", get(jobs))
        .route("/jobs/{id}", get(job).delete(delete))
        .route("/jobs/{id}/why", get(why))
        .route("/jobs/{id}/run", post(run))
        .route("/jobs/{id}/discard", post(discard))
        .route("/counts", get(counts))
        .route("/tasks", get(tasks))
        .route("/queues", get(queues))
        .route("/workers", get(workers))
        .route("/workers/{id}/unlock", post(unlock))
        .route("/crontabs", get(crontabs))
        .route("/doctor", get(doctor))
        .fallback(|| async { Problem::missing("there is no such resource; GET api/v1/ lists them") })
        .method_not_allowed_fallback(|| async {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this resource does not take this method")
        })
}

/// What the path or the query says; or a problem in words.
pub(crate) struct Said<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Said<Query<T>> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Answer<Self> {
        let read = Query::from_request_parts(parts, state).await;
        read.map(Self).map_err(|error: QueryRejection| Problem::bad(error.body_text()))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Said<JobId> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Answer<Self> {
        let read = Path::<String>::from_request_parts(parts, state).await;
        let Path(text) = read.map_err(|error: PathRejection| Problem::bad(error.body_text()))?;
        text.parse().map(Self).map_err(|_| Problem::bad(format!("{text:?} is no job's id, which is a number")))
    }
}

pub(crate) async fn root(State(shared): App, caller: Caller) -> Answer<Json<Value>> {
    caller.need(Permission::View)?;
    let storage = shared.client().storage();
    Ok(Json(json!({
        "name": shared.name(),
        "version": env!("CARGO_PKG_VERSION"),
        "storage": storage.name(),
        "storage_version": storage.version().await.ok(),
        "caller": { "name": caller.0.name, "permissions": caller.0.permissions.names() },
        "read_only": shared.settings.read_only,
        "time": looks_time(&shared).await?,
        "resources": ["jobs", "counts", "tasks", "queues", "workers", "crontabs", "doctor"],
    })))
}

async fn looks_time(shared: &Shared) -> Answer<String> {
    Ok(shared.looks.now().await?.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true))
}

async fn jobs(
    State(shared): App,
    caller: Caller,
    Said(Query(asked)): Said<Query<JobsQuery>>,
) -> Answer<Json<Box<RawValue>>> {
    let listed = looks::jobs(&shared, &caller, &asked, caller.may(Permission::Payload)).await?;
    let found = listed.found;
    let shown: Vec<_> = found.jobs.into_iter().map(|job| looks::shown(&shared, &caller, job).0).collect();
    let jobs: Vec<_> = shown.iter().map(|job| job.with_state_at(listed.now)).collect();
    raw(&JobsBody {
        jobs,
        searched: json!({ "looked_at": found.looked_at, "of": found.of, "complete": listed.next.is_none() }),
        next: listed.next,
        as_of: listed.now.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true),
    })
    .map(Json)
}

/// A page of jobs.
#[derive(Serialize)]
struct JobsBody<'a> {
    jobs: Vec<JobWithState<'a>>,
    next: Option<String>,
    searched: Value,
    as_of: String,
}

/// A `Value` would round numbers in payloads; so their text goes through as it is.
fn raw<T: Serialize>(value: &T) -> Answer<Box<RawValue>> {
    serde_json::value::to_raw_value(value).map_err(|error| {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, format!("could not write the answer: {error}"))
    })
}

async fn job(State(shared): App, caller: Caller, Said(id): Said<JobId>) -> Answer<Response> {
    let (job, is_hidden) = looks::shown(&shared, &caller, looks::job(&shared, &caller, id).await?);
    let now = shared.looks.now().await?;
    let mut response = Json(raw(&job.with_state_at(now))?).into_response();
    if is_hidden {
        response.headers_mut().insert("x-backfill-redacted", axum::http::HeaderValue::from_static("true"));
    }
    Ok(response)
}

async fn why(State(shared): App, caller: Caller, Said(id): Said<JobId>) -> Answer<Json<Value>> {
    looks::job(&shared, &caller, id).await?;
    let why = shared.client().why(id).await?.unwrap_or_default();
    let words: Vec<String> = why.iter().map(ToString::to_string).collect();
    Ok(Json(json!({ "id": id, "why": why, "words": words })))
}

#[derive(Default, Deserialize)]
struct Reason {
    #[serde(default)]
    reason: String,
}

async fn run(State(shared): App, caller: Caller, Said(id): Said<JobId>) -> Answer<Response> {
    act(&shared, &caller, Act::Run, id, "").await
}

async fn delete(State(shared): App, caller: Caller, Said(id): Said<JobId>) -> Answer<Response> {
    act(&shared, &caller, Act::Delete, id, "").await
}

async fn discard(State(shared): App, caller: Caller, Said(id): Said<JobId>, body: String) -> Answer<Response> {
    let said: Reason = if body.is_empty() { Reason::default() } else { read(&body)? };
    act(&shared, &caller, Act::Discard, id, &said.reason).await
}

fn read<T: DeserializeOwned>(body: &str) -> Answer<T> {
    serde_json::from_str(body).map_err(|error| Problem::bad(format!("the body cannot be read: {error}")))
}

async fn act(shared: &Shared, caller: &Caller, act: Act, id: JobId, reason: &str) -> Answer<Response> {
    let done = acts::on_jobs(shared, caller, act, &[id], reason).await?;
    if let Some(left) = done.left.first() {
        let status = if left.why.starts_with("there is no") { StatusCode::NOT_FOUND } else { StatusCode::CONFLICT };
        return Err(Problem::new(status, format!("job {id} was left alone: {}", left.why)));
    }
    let now = shared.looks.now().await?;
    let shown: Vec<_> = done.changed.into_iter().map(|job| looks::shown(shared, caller, job).0).collect();
    let jobs: Vec<_> = shown.iter().map(|job| job.with_state_at(now)).collect();
    Ok(Json(raw(&jobs.first())?).into_response())
}

async fn counts(State(shared): App, caller: Caller) -> Answer<Json<Value>> {
    caller.need(Permission::View)?;
    let tally = shared.looks.tally().await?;
    Ok(Json(json!({ "jobs": tally, "total": tally.total(), "as_of": looks_time(&shared).await? })))
}

async fn tasks(State(shared): App, caller: Caller) -> Answer<Json<Value>> {
    caller.need(Permission::View)?;
    Ok(Json(json!({ "tasks": shared.looks.tasks().await?, "as_of": looks_time(&shared).await? })))
}

/// What a request says of a list of queues.
#[derive(Default, Deserialize)]
pub(crate) struct QueuesQuery {
    pub name: Option<String>,
    pub after: Option<String>,
    pub limit: Option<u32>,
}

impl QueuesQuery {
    pub fn list(&self) -> Answer<QueueList> {
        let limit = self.limit.unwrap_or(50);
        if !(1..=200).contains(&limit) {
            return Err(Problem::bad(format!("limit={limit} must be from 1 to 200")));
        }
        let said = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        Ok(QueueList::all(Effort::Bounded)
            .name(said(&self.name).map(Pattern::of))
            .after(said(&self.after))
            .limit(limit))
    }
}

async fn queues(
    State(shared): App,
    caller: Caller,
    Said(Query(asked)): Said<Query<QueuesQuery>>,
) -> Answer<Json<Value>> {
    caller.need(Permission::View)?;
    let list = asked.list()?;
    let queues = shared.looks.queues(&list).await?;
    let is_full = list.limit.is_some_and(|limit| queues.len() >= limit as usize);
    let next = queues.last().filter(|_| is_full).map(|last| last.name.clone());
    Ok(Json(json!({ "queues": queues, "next": next, "as_of": looks_time(&shared).await? })))
}

async fn workers(State(shared): App, caller: Caller) -> Answer<Json<Value>> {
    caller.need(Permission::View)?;
    Ok(Json(json!({ "workers": shared.looks.workers().await?, "as_of": looks_time(&shared).await? })))
}

#[derive(Deserialize)]
struct Confirmed {
    confirm: String,
}

async fn unlock(State(shared): App, caller: Caller, Path(worker): Path<String>, body: String) -> Answer<Json<Value>> {
    let Confirmed { confirm } = read(&body)?;
    let released = acts::unlock(&shared, &caller, &worker, &confirm).await?;
    Ok(Json(json!({ "released": Number::exact(released) })))
}

async fn crontabs(State(shared): App, caller: Caller) -> Answer<Json<Value>> {
    caller.need(Permission::View)?;
    Ok(Json(json!({ "crontabs": shared.client().crontabs().await?, "as_of": looks_time(&shared).await? })))
}

async fn doctor(State(shared): App, caller: Caller) -> Answer<Json<Value>> {
    caller.need(Permission::View)?;
    Ok(Json(json!({ "checks": shared.looks.findings().await? })))
}
