//! What forms do. Each leads back to the page that it was on.

use std::sync::Arc;

use axum::extract::{Path, State};
use backfill::JobId;

use super::{Page, query_of, to};
use crate::Shared;
use crate::acts::{self, Act};
use crate::gate::Caller;
use crate::problem::Problem;

/// The fields of a form, in their order, some of them more than once.
struct Form(Vec<(String, String)>);

impl Form {
    fn of(body: &str) -> Self {
        Self(form_urlencoded::parse(body.as_bytes()).into_owned().collect())
    }

    fn field(&self, name: &str) -> &str {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str()).unwrap_or_default()
    }
}

fn act_named(name: &str) -> Result<Act, Problem> {
    Act::named(name)
        .ok_or_else(|| Problem::missing(format!("there is no action {name:?}; there are run, discard and delete")))
}

fn id_of(text: &str) -> Result<JobId, Problem> {
    text.parse().map_err(|_| Problem::bad(format!("{text:?} is no job's id, which is a number")))
}

pub(super) async fn on_one(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    Path((id, act)): Path<(String, String)>,
    body: String,
) -> Page {
    let (id, act) = (id_of(&id)?, act_named(&act)?);
    let done = acts::on_jobs(&shared, &caller, act, &[id], Form::of(&body).field("reason")).await?;
    let query = told(act, &done);
    Ok(if act == Act::Delete && !done.changed.is_empty() {
        to(&format!("../../jobs?{query}"))
    } else {
        to(&format!("../{id}?{query}"))
    })
}

pub(super) async fn on_ticked(State(shared): State<Arc<Shared>>, caller: Caller, body: String) -> Page {
    let form = Form::of(&body);
    let act = act_named(form.field("act"))?;
    let ids: Vec<JobId> =
        form.0.iter().filter(|(name, _)| name == "id").map(|(_, id)| id_of(id)).collect::<Result<_, _>>()?;
    let done = acts::on_jobs(&shared, &caller, act, &ids, form.field("reason")).await?;
    // Only pairs of our own go back into the address.
    let back: Vec<(String, String)> = form_urlencoded::parse(form.field("back").as_bytes()).into_owned().collect();
    let back: Vec<(&str, &str)> = back
        .iter()
        .filter(|(name, _)| matches!(name.as_str(), "q" | "order" | "limit" | "after"))
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let (back, told) = (query_of(&back), told(act, &done));
    Ok(to(&format!("../jobs?{back}{}{told}", if back.is_empty() { "" } else { "&" })))
}

fn told(act: Act, done: &acts::Done) -> String {
    let (changed, left) = (done.changed.len().to_string(), done.left.len().to_string());
    query_of(&[("done", act.as_str()), ("changed", &changed), ("left", &left)])
}

pub(super) async fn unlock(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    Path(worker): Path<String>,
    body: String,
) -> Page {
    let released = acts::unlock(&shared, &caller, &worker, Form::of(&body).field("confirm")).await?;
    Ok(to(&format!("../../workers?released={released}")))
}
