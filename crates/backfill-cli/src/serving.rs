//! Which tasks live workers run, and which jobs wait for nobody.
//!
//! Workers of backfill's tell what they run. Node's do not, so all that can be said of a task is that none of ours runs it.

use std::collections::{BTreeMap, BTreeSet};

use backfill::explain::{Reason, is_live, runs_jobs};
use backfill::storage::Storage;
use backfill::{Counts, Error, TaskInfo, WorkerInfo};

use crate::output::count_of;

/// How many tasks are told one by one.
const MOST_TOLD: usize = 20;

/// Which tasks live workers of backfill's run.
#[derive(Debug, Default)]
pub struct Serving {
    /// How many run each.
    by_task: BTreeMap<String, usize>,
    pub workers: usize,
    /// One of them does not tell what it runs: it is of an earlier version.
    unknown: bool,
}

impl Serving {
    pub async fn of(storage: &dyn Storage) -> Result<Self, Error> {
        Ok(Self::of_workers(&storage.require_inspect()?.serving().await?))
    }

    /// The same for one who may do without: a role that must not look at workers knows nothing of them.
    pub async fn if_visible(storage: &dyn Storage) -> Self {
        Self::of(storage).await.unwrap_or_else(|error| {
            tracing::debug!(%error, "cannot look for workers");
            Self { unknown: true, ..Self::default() }
        })
    }

    pub fn of_workers(workers: &[WorkerInfo]) -> Self {
        let mut serving = Self::default();
        for worker in workers.iter().filter(|worker| is_live(worker) && runs_jobs(worker)) {
            serving.unknown |= worker.tasks.is_none();
            serving.add(worker.tasks.iter().flatten().map(String::as_str));
        }
        serving
    }

    /// Counts another worker, which runs these.
    pub fn add<'a>(&mut self, tasks: impl IntoIterator<Item = &'a str>) {
        self.workers += 1;
        for task in tasks {
            *self.by_task.entry(task.to_owned()).or_default() += 1;
        }
    }

    /// How many live workers run this task, if that is known.
    pub fn workers_of(&self, task: &str) -> Option<usize> {
        let known = self.by_task.get(task).copied().unwrap_or_default();
        (!self.unknown).then_some(known)
    }

    /// That there are live workers and none of them runs this task; with the name that was probably meant.
    pub fn problem(&self, task: &str) -> Option<String> {
        if self.workers == 0 || self.workers_of(task) != Some(0) {
            return None;
        }
        let served = self.by_task.keys().cloned().collect();
        Some(Reason::NotServed { task: task.to_owned(), served }.to_string())
    }

    /// The same of each task for which jobs wait, most of them first.
    pub fn problems(&self, tasks: &[TaskInfo]) -> Vec<String> {
        let mut waiting: Vec<(u64, String)> = tasks
            .iter()
            .map(|task| (waiting(&task.jobs), task))
            .filter(|(jobs, _)| *jobs > 0)
            .filter_map(|(jobs, task)| {
                let wait = if jobs == 1 { "waits" } else { "wait" };
                self.problem(&task.name).map(|problem| (jobs, format!("{} {wait}: {problem}", count_of(jobs, "job"))))
            })
            .collect();
        waiting.sort_by_key(|(jobs, _)| std::cmp::Reverse(*jobs));
        shortened(waiting.into_iter().map(|(_, problem)| problem).collect())
    }

    /// The same of these tasks.
    pub fn problems_of<'a>(&self, tasks: impl IntoIterator<Item = &'a str>) -> Vec<String> {
        let tasks: BTreeSet<&str> = tasks.into_iter().collect();
        shortened(tasks.into_iter().filter_map(|task| self.problem(task)).collect())
    }
}

fn shortened(mut problems: Vec<String>) -> Vec<String> {
    let more = problems.len().saturating_sub(MOST_TOLD);
    if more > 0 {
        problems.truncate(MOST_TOLD);
        problems.push(format!("and so it is with {}", count_of(more as u64, "other task")));
    }
    problems
}

/// The jobs that somebody is to run, now or later.
pub fn waiting(jobs: &Counts) -> u64 {
    jobs.ready + jobs.scheduled + jobs.retrying
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn worker(tasks: Option<&[&str]>, last_seen_ago: u64) -> WorkerInfo {
        let mut worker = WorkerInfo::new("pool-1".to_owned());
        worker.last_seen_ago = Some(Duration::from_secs(last_seen_ago));
        worker.tasks = tasks.map(|tasks| tasks.iter().map(|task| (*task).to_owned()).collect());
        worker
    }

    #[test]
    fn only_what_is_known_is_said() {
        let one = Serving::of_workers(&[worker(Some(&["send_mail"]), 1), worker(Some(&["tidy", "send_mail"]), 9)]);
        assert_eq!(one.problem("send_mail"), None);
        let told = one.problem("sendmail").expect("nobody runs it");
        assert_eq!(told, "no live worker of backfill's runs the task \"sendmail\"; did you mean \"send_mail\"?");
        assert_eq!((one.workers_of("send_mail"), one.workers_of("x")), (Some(2), Some(0)));
        for unclear in [
            // Nobody is there, only Node's are, one does not tell, or all were last seen long ago.
            &[][..],
            &[WorkerInfo::new("node".to_owned())],
            &[worker(Some(&["a"]), 1), worker(None, 1)],
            &[worker(Some(&["a"]), 3600)],
        ] {
            assert_eq!(Serving::of_workers(unclear).problem("x"), None);
        }
        let mut task = TaskInfo::new("x".to_owned(), Counts::default());
        assert!(one.problems(std::slice::from_ref(&task)).is_empty(), "no job waits");
        task.jobs.scheduled = 1;
        assert!(one.problems(&[task])[0].starts_with("1 job waits: no live worker"));
        let many: Vec<String> = (0..30).map(|n| format!("many{n}")).collect();
        assert_eq!(one.problems_of(many.iter().map(String::as_str)).len(), MOST_TOLD + 1);
    }
}
