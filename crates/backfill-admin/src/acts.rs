//! What is changed, for pages and API alike: the permission is checked here, and each change is logged with who made it.

use backfill::{Job, JobId};
use serde::Serialize;

use crate::Shared;
use crate::gate::Caller;
use crate::principal::Permission;
use crate::problem::{Answer, Problem};

/// What is done to jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    Run,
    Discard,
    Delete,
}

impl Act {
    pub const ALL: [Self; 3] = [Self::Run, Self::Discard, Self::Delete];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Discard => "discard",
            Self::Delete => "delete",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|act| act.as_str() == name)
    }

    pub fn permission(self) -> Permission {
        match self {
            Self::Run => Permission::Run,
            Self::Discard => Permission::Discard,
            Self::Delete => Permission::Delete,
        }
    }

    /// What was done, in words.
    pub fn done(self) -> &'static str {
        match self {
            Self::Run => "will run as soon as a worker is free",
            Self::Discard => "dead now",
            Self::Delete => "deleted",
        }
    }
}

/// What was changed, and what was left alone.
#[derive(Debug, Default)]
pub(crate) struct Done {
    pub changed: Vec<Job>,
    pub left: Vec<Left>,
}

/// A job that was left alone.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Left {
    pub id: JobId,
    pub why: &'static str,
}

/// So many jobs are changed by one request.
const MOST: usize = 500;
/// Without a reason, this is a dead job's last error.
const REASON: &str = "discarded on the admin page";

/// Does it to these jobs, but for those that a worker holds.
pub(crate) async fn on_jobs(shared: &Shared, caller: &Caller, act: Act, ids: &[JobId], reason: &str) -> Answer<Done> {
    caller.need(Permission::View)?;
    caller.need(act.permission())?;
    if ids.len() > MOST {
        return Err(Problem::bad(format!("{} jobs are too many at once; at most {MOST} are changed", ids.len())));
    }
    let client = shared.client();
    let changed = match act {
        Act::Run => client.run_now(ids).await?,
        Act::Discard => client.discard(ids, if reason.is_empty() { REASON } else { reason }).await?,
        Act::Delete => client.complete(ids).await?,
    };
    let mut left = Vec::new();
    for id in ids.iter().filter(|id| !changed.iter().any(|job| job.id == **id)) {
        let why = match client.job(*id).await? {
            None => "there is no such job: it is done, or was deleted",
            Some(job) if job.locked_at.is_some() => "a worker holds it",
            Some(_) => "it changed meanwhile",
        };
        left.push(Left { id: *id, why });
    }
    shared.looks.forget().await;
    for job in &changed {
        tracing::info!(who = caller.0.name, act = act.as_str(), job = %job.id, task = job.task, reason, "changed on the admin page");
    }
    Ok(Done { changed, left })
}

/// Releases what a worker holds, if its id is said once more.
pub(crate) async fn unlock(shared: &Shared, caller: &Caller, worker: &str, confirmed: &str) -> Answer<u64> {
    caller.need(Permission::View)?;
    caller.need(Permission::Unlock)?;
    if worker != confirmed {
        return Err(Problem::bad(format!(
            "to release what {worker} holds, write its id once more: a worker that is alive finds its jobs started by others"
        )));
    }
    let released = shared.client().unlock([worker]).await?;
    shared.looks.forget().await;
    tracing::warn!(who = caller.0.name, worker, released, "a worker was unlocked on the admin page");
    Ok(released)
}
