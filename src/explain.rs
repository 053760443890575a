//! Why a job does not run.
//!
//! What is looked at is what everybody can see: the job, its queue, and what live workers say of themselves with their heartbeats, which
//! may be seconds old. Node's workers say nothing, so where there may be some, a reason is a guess; [`Reason::is_certain`] tells.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::error::Result;
use crate::job::{Job, JobId, JobState};
use crate::nearest::did_you_mean;
use crate::storage::{Inspect, JobFilter, Storage, WorkerInfo};
use crate::worker::Hold;

/// A worker that was last seen longer ago is not counted. (One that is given more time sends heartbeats at least as often.)
pub const LIVE: Duration = Duration::from_secs(120);

/// Whether a worker is alive, as far as its heartbeats tell.
#[must_use]
pub fn is_live(worker: &WorkerInfo) -> bool {
    worker.last_seen_ago.is_some_and(|ago| ago <= LIVE)
}

/// Whether a worker runs jobs at all, or does not tell. One that says it runs none is the run of a move, or has a crontab alone.
#[must_use]
pub fn runs_jobs(worker: &WorkerInfo) -> bool {
    worker.tasks.as_ref().is_none_or(|tasks| !tasks.is_empty())
}

/// How many jobs of a queue are looked at for one that comes first.
const MOST_OF_QUEUE: u32 = 1_000;

/// Why a job does not run. As JSON it is an object whose field `reason` has the kind, in snake case.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reason {
    /// It runs.
    Running {
        /// The worker that holds it.
        worker: String,
    },
    /// It is held by something that is no live worker: a worker that has died, a move, or a worker of Node's.
    Held {
        /// What holds it.
        by: String,
        /// Since when.
        since: DateTime<Utc>,
    },
    /// It has no attempts left.
    Dead,
    /// It is not due.
    NotDue {
        /// When it is.
        run_at: DateTime<Utc>,
    },
    /// A job of its serial queue runs.
    QueueHeld {
        /// The queue.
        queue: String,
        /// The job that runs.
        job: JobId,
        /// The worker that holds it.
        worker: Option<String>,
    },
    /// An earlier job of its serial queue has to run first.
    Behind {
        /// The queue.
        queue: String,
        /// The next job of the queue.
        job: JobId,
    },
    /// No worker sends heartbeats. Workers of Node's never do.
    NoWorkers,
    /// Workers send heartbeats, and none of them runs its task.
    NotServed {
        /// The task.
        task: String,
        /// What they run.
        served: Vec<String>,
    },
    /// Every worker that runs its task leaves jobs with this flag alone.
    FlagForbidden {
        /// The flag.
        flag: String,
    },
    /// A worker runs as many jobs of its task as that worker's limit allows, or of all tasks.
    Full {
        /// The worker.
        worker: String,
        /// How many jobs it runs.
        running: usize,
        /// Whether it is the limit of the task.
        limit: Option<usize>,
    },
    /// A worker asks for no jobs at present.
    Holding {
        /// The worker.
        worker: String,
        /// Why.
        hold: Hold,
    },
    /// Nothing is in its way: a worker takes it when its turn comes.
    Ready,
}

impl Reason {
    /// Whether nobody can make it run who does not tell: workers of Node's send no heartbeats.
    #[must_use]
    pub fn is_certain(&self) -> bool {
        !matches!(self, Self::NoWorkers | Self::NotServed { .. } | Self::FlagForbidden { .. } | Self::Full { .. })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Running { worker } => write!(f, "it runs, at {worker}"),
            Self::Held { by, since } => write!(f, "it is held by {by} since {since}, which sends no heartbeats"),
            Self::Dead => f.write_str("it is dead: it has no attempts left"),
            Self::NotDue { run_at } => write!(f, "it is not due before {run_at}"),
            Self::QueueHeld { queue, job, .. } => write!(f, "job {job} of its queue {queue:?} runs"),
            Self::Behind { queue, job } => write!(f, "job {job} of its queue {queue:?} comes first"),
            Self::NoWorkers => f.write_str("no worker sends heartbeats (workers of Node's never do)"),
            Self::NotServed { task, served } => {
                let meant = did_you_mean(task, served.iter().map(String::as_str));
                write!(f, "no live worker of backfill's runs the task {task:?}{meant}")
            }
            Self::FlagForbidden { flag } => {
                write!(f, "each worker that runs its task leaves jobs with the flag {flag:?} alone")
            }
            Self::Full { worker, running, limit: Some(limit) } => {
                write!(f, "{worker} runs {}, and at most {limit} of this task", jobs(*running))
            }
            Self::Full { worker, running, limit: None } => write!(f, "{worker} is full: it runs {}", jobs(*running)),
            Self::Holding { worker, hold } => write!(f, "{worker} asks for no jobs: {hold}"),
            Self::Ready => f.write_str("nothing is in its way; a worker takes it when its turn comes"),
        }
    }
}

fn jobs(count: usize) -> String {
    if count == 1 { "1 job".to_owned() } else { format!("{count} jobs") }
}

/// Why this job does not run, the most important reason first; `None` if there is no such job.
pub(crate) async fn explain(storage: &dyn Storage, id: JobId) -> Result<Option<Vec<Reason>>> {
    let inspect = storage.require_inspect()?;
    let Some(job) = inspect.job(id).await? else { return Ok(None) };
    let workers = inspect.serving().await?;
    let live: Vec<&WorkerInfo> = workers.iter().filter(|worker| is_live(worker)).collect();
    let now = storage.now().await?;
    if let (Some(by), Some(since)) = (&job.locked_by, job.locked_at) {
        let is_live = live.iter().any(|worker| worker.id == *by);
        let by = by.clone();
        return Ok(Some(vec![if is_live { Reason::Running { worker: by } } else { Reason::Held { by, since } }]));
    }
    let mut reasons = match job.state(now) {
        JobState::Dead => vec![Reason::Dead],
        JobState::Scheduled | JobState::Retrying if job.run_at > now => vec![Reason::NotDue { run_at: job.run_at }],
        _ => Vec::new(),
    };
    if reasons.is_empty() {
        reasons.extend(of_queue(inspect, &job, now).await?);
    }
    if !matches!(reasons[..], [Reason::Dead, ..]) {
        reasons.extend(of_workers(&job, &live));
    }
    if reasons.is_empty() {
        reasons.push(Reason::Ready);
    }
    Ok(Some(reasons))
}

async fn of_queue(inspect: &dyn Inspect, job: &Job, now: DateTime<Utc>) -> Result<Option<Reason>> {
    let Some(queue) = &job.queue else { return Ok(None) };
    let of_queue = JobFilter::new().queue(queue.clone()).without_payloads();
    let running = inspect.jobs(&of_queue.clone().state(JobState::Running).limit(1)).await?;
    if let Some(first) = running.into_iter().next() {
        return Ok(Some(Reason::QueueHeld { queue: queue.clone(), job: first.id, worker: first.locked_by }));
    }
    let others = inspect.jobs(&of_queue.limit(MOST_OF_QUEUE)).await?;
    let place = |job: &Job| (job.priority, job.run_at, job.id);
    let is_ready =
        |other: &&Job| other.locked_at.is_none() && other.attempts < other.max_attempts && other.run_at <= now;
    let first = others.iter().filter(is_ready).min_by_key(|other| place(other));
    let first = first.filter(|first| place(first) < place(job));
    Ok(first.map(|first| Reason::Behind { queue: queue.clone(), job: first.id }))
}

/// What keeps live workers from it.
fn of_workers(job: &Job, live: &[&WorkerInfo]) -> Vec<Reason> {
    let live: Vec<&WorkerInfo> = live.iter().copied().filter(|worker| runs_jobs(worker)).collect();
    if live.is_empty() {
        return vec![Reason::NoWorkers];
    }
    let serves = |worker: &&WorkerInfo| worker.tasks.as_ref().is_none_or(|tasks| tasks.contains(&job.task));
    let serving: Vec<&WorkerInfo> = live.iter().copied().filter(serves).collect();
    if serving.is_empty() {
        let mut served: Vec<String> = live.iter().filter_map(|worker| worker.tasks.clone()).flatten().collect();
        served.sort_unstable();
        served.dedup();
        return vec![Reason::NotServed { task: job.task.clone(), served }];
    }
    let forbids = |worker: &&WorkerInfo, flag: &String| {
        worker.status.as_ref().is_some_and(|status| status.forbidden_flags.contains(flag))
    };
    if let Some(flag) = job.flags.iter().find(|flag| serving.iter().all(|worker| forbids(worker, flag))) {
        return vec![Reason::FlagForbidden { flag: flag.clone() }];
    }
    let mut held = Vec::new();
    for worker in &serving {
        match hold_of(job, worker) {
            Some(reason) => held.push(reason),
            // One of them may take it at any moment.
            None => return Vec::new(),
        }
    }
    held
}

fn hold_of(job: &Job, worker: &WorkerInfo) -> Option<Reason> {
    let status = worker.status.as_ref()?;
    let hold = status.hold.as_deref().and_then(Hold::named)?;
    let (id, running) = (worker.id.clone(), status.running);
    match hold {
        Hold::NothingReady | Hold::Claiming => None,
        Hold::Full => Some(Reason::Full { worker: id, running, limit: None }),
        Hold::TasksFull => {
            status.limits.get(&job.task).map(|limit| Reason::Full { worker: id, running, limit: Some(*limit) })
        }
        hold => Some(Reason::Holding { worker: id, hold }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Payload;
    use crate::storage::WorkerStatus;

    fn job() -> Job {
        Job::new(7, "send", Payload::empty(), DateTime::UNIX_EPOCH)
    }

    fn worker(id: &str, tasks: &[&str], hold: Option<Hold>) -> WorkerInfo {
        let mut worker = WorkerInfo::new(id.to_owned());
        worker.tasks = Some(tasks.iter().map(|task| (*task).to_owned()).collect());
        let mut status = WorkerStatus::new(10);
        (status.running, status.hold) = (10, hold.map(|hold| hold.as_str().to_owned()));
        worker.status = Some(status);
        worker
    }

    #[test]
    fn what_keeps_live_workers_from_a_job_is_told() {
        assert_eq!(of_workers(&job(), &[]), [Reason::NoWorkers]);
        let other = worker("a", &["sent"], None);
        let told = of_workers(&job(), &[&other]);
        assert!(told[0].to_string().contains("did you mean \"sent\"?"), "{}", told[0]);
        let (full, ending) = (worker("b", &["send"], Some(Hold::Full)), worker("c", &["send"], Some(Hold::Ending)));
        let told: Vec<String> = of_workers(&job(), &[&full, &ending]).iter().map(ToString::to_string).collect();
        assert_eq!(told, ["b is full: it runs 10 jobs", "c asks for no jobs: it ends"]);
        let idle = worker("d", &["send"], Some(Hold::NothingReady));
        assert_eq!(of_workers(&job(), &[&full, &idle]), [], "one takes it");
        let mut flagged = job();
        flagged.flags = vec!["slow".to_owned()];
        let mut careful = worker("e", &["send"], None);
        careful.status.as_mut().expect("one").forbidden_flags = vec!["slow".to_owned()];
        assert_eq!(of_workers(&flagged, &[&careful]), [Reason::FlagForbidden { flag: "slow".to_owned() }]);
        assert_eq!(of_workers(&flagged, &[&careful, &idle]), []);
        let mut limited = worker("f", &["send"], Some(Hold::TasksFull));
        limited.status.as_mut().expect("one").limits.insert("send".to_owned(), 2);
        let told = of_workers(&job(), &[&limited]);
        assert_eq!(told, [Reason::Full { worker: "f".to_owned(), running: 10, limit: Some(2) }]);
        let json = serde_json::to_value(&told[0]).expect("json");
        assert_eq!((&json["reason"], &json["limit"]), (&"full".into(), &2.into()));
    }
}
