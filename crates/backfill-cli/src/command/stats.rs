//! `backfill stats`.

use std::time::{Duration, Instant};

use backfill::storage::{Effort, Precision, Tally};
use backfill::{BackfillClient, Counts, Error, JobId, JobState, TaskInfo, WorkerInfo};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::inspect::{COUNTS, counts_row, effort, task_json, tasks_table};
use super::watch;
use crate::args::{Global, StatsArgs};
use crate::database;
use crate::failure::Failure;
use crate::output::{Output, count_of, rfc3339, wrapped};
use crate::screen::{Screen, Style};
use crate::serving::{Serving, waiting};
use crate::table::{Cell, Column, Table};

pub async fn run(global: &Global, output: &Output, args: StatsArgs) -> Result<(), Failure> {
    if let Some(every) = args.watch
        && every < Duration::from_millis(100)
    {
        return Err(Failure::Usage("--watch needs at least 100ms".to_owned()));
    }
    let client = database::client(global).await?;
    let effort = effort(args.count);
    if let Some(every) = args.watch {
        return watch::run(&client, output, every, effort).await;
    }
    let look = Look::take(&client, effort).await?;
    if output.is_json() { look.json(output) } else { output.line(look.text(&output.screen())) }
}

/// What there is at one time.
pub struct Look {
    /// By the storage's clock, and by this machine's.
    pub at: DateTime<Utc>,
    taken: Instant,
    /// Those that have jobs, and all for machines.
    tasks: Vec<TaskInfo>,
    pub workers: Vec<WorkerInfo>,
    pub serving: Serving,
    /// All of them by state.
    pub counts: Tally,
    last_id: Option<JobId>,
}

async fn last_id(client: &BackfillClient) -> Option<JobId> {
    client.storage().inspect()?.last_id().await.ok().flatten()
}

impl Look {
    pub async fn take(client: &BackfillClient, effort: Effort) -> Result<Self, Error> {
        // Whoever may not see it does without.
        let last_id = last_id(client).await;
        let inspect = client.storage().require_inspect()?;
        let (tasks, workers, tally) =
            tokio::try_join!(inspect.tasks(effort), inspect.workers(effort), inspect.tally(effort))?;
        let counts = if tasks.iter().all(|task| task.precision == Precision::Exact) {
            // What the tasks add up to: they were counted at one time.
            let mut counts = Counts::default();
            for task in &tasks {
                for state in JobState::ALL {
                    counts.add(state, task.jobs.get(state));
                }
            }
            Tally::of(&counts, Precision::Exact)
        } else {
            tally
        };
        let at = database::now(client).await;
        let serving = Serving::of_workers(&workers);
        Ok(Self { at, taken: Instant::now(), tasks, workers, serving, counts, last_id })
    }

    pub fn json(&self, output: &Output) -> Result<(), Failure> {
        let tasks: Vec<Value> = self.tasks.iter().map(|task| task_json(task, &self.serving)).collect();
        output.json(&json!({
            "at": rfc3339(self.at),
            "jobs": self.counts.counts(),
            "precision": self.counts.precisions(),
            "tasks": tasks,
            "workers": self.workers.len(),
        }))
    }

    /// Tasks that have jobs; those for which most wait first.
    pub fn used(&self) -> Vec<TaskInfo> {
        let mut used: Vec<TaskInfo> = self.tasks.iter().filter(|task| task.jobs.total() > 0).cloned().collect();
        used.sort_by_key(|task| std::cmp::Reverse(waiting(&task.jobs) + task.jobs.running));
        used
    }

    pub fn workers_line(&self) -> String {
        let busy: u64 = self.workers.iter().map(|worker| worker.jobs).sum();
        let hold = if self.workers.len() == 1 { "holds" } else { "hold" };
        format!("{} {hold} {}", count_of(self.workers.len() as u64, "worker"), count_of(busy, "job"))
    }

    pub fn problems(&self, used: &[TaskInfo]) -> Vec<String> {
        let mut problems = self.serving.problems(used);
        let waiting: u64 = used.iter().map(|task| waiting(&task.jobs)).sum();
        if self.serving.workers == 0 && waiting > 0 && self.counts.running.value == 0 {
            let wait = if waiting == 1 { "waits" } else { "wait" };
            problems.push(format!(
                "{} {wait} for a worker: no live worker of backfill's is registered",
                count_of(waiting, "job")
            ));
        }
        problems
    }

    pub fn text(&self, screen: &Screen) -> String {
        let mut totals = Table::new(COUNTS);
        totals.row(counts_row(&self.counts));
        self.below(totals.text(screen) + "\n\n" + &self.workers_line(), screen)
    }

    /// The same, with what has changed since the last look.
    pub fn text_since(&self, last: Option<&Self>, screen: &Screen) -> String {
        let mut told = self.totals_since(last).text(screen) + "\n\n" + &self.workers_line();
        if let Some(rates) = last.and_then(|last| self.rates_since(last)) {
            told = format!("{told}; {rates}");
        }
        self.below(told, screen)
    }

    fn below(&self, mut told: String, screen: &Screen) -> String {
        let used = self.used();
        if !used.is_empty() {
            told = format!("{told}\n\n{}", tasks_table(&used, &self.serving, self.at).text(screen));
        }
        let problems = self.problems(&used);
        if !problems.is_empty() {
            told.push('\n');
        }
        for problem in problems {
            told = format!("{told}\n{}", screen.paint(Style::Warning, &wrapped(&problem, screen.width(), 0)));
        }
        told
    }

    /// Jobs by state, and how many more or less they are than at the last look.
    pub fn totals_since(&self, last: Option<&Self>) -> Table {
        let mut columns = vec![("", Column::Fixed)];
        columns.extend(COUNTS);
        let mut table = Table::new(columns);
        let mut now = vec!["now".into()];
        now.extend(counts_row(&self.counts));
        table.row(now);
        if let Some(last) = last {
            let mut changes = vec![Cell::new("change", Style::Dim)];
            changes.extend(changes_of(&last.counts.counts(), &self.counts.counts()));
            table.row(changes);
        }
        table
    }

    /// How many jobs are added and done a second, if that can be told.
    pub fn rates_since(&self, last: &Self) -> Option<String> {
        let seconds = self.taken.duration_since(last.taken).as_secs_f64();
        let added = u64::try_from(self.last_id?.number() - last.last_id?.number()).ok().filter(|_| seconds > 0.0)?;
        // Two estimates differ by chance.
        let total = |tally: &Tally| Some(tally.total()).filter(|total| total.precision == Precision::Exact);
        let Some((before, now)) = total(&last.counts).zip(total(&self.counts)) else {
            return Some(format!("{} added", rate(added, seconds)));
        };
        let done = (added + before.value).saturating_sub(now.value);
        Some(format!("{} added, {} done", rate(added, seconds), rate(done, seconds)))
    }
}

fn changes_of(last: &Counts, now: &Counts) -> [Cell; 5] {
    [
        (last.ready, now.ready),
        (last.scheduled, now.scheduled),
        (last.running, now.running),
        (last.retrying, now.retrying),
        (last.dead, now.dead),
    ]
    .map(|(last, now)| match now.cmp(&last) {
        std::cmp::Ordering::Equal => Cell::new("0", Style::Dim),
        std::cmp::Ordering::Greater => format!("+{}", now - last).into(),
        std::cmp::Ordering::Less => format!("-{}", last - now).into(),
    })
}

#[expect(clippy::cast_precision_loss, reason = "it is rounded anyway")]
fn rate(count: u64, seconds: f64) -> String {
    let rate = count as f64 / seconds;
    if rate == 0.0 || rate >= 100.0 { format!("{rate:.0}/s") } else { format!("{rate:.1}/s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(ready: u64, dead: u64, last_id: Option<i64>, taken: Instant) -> Look {
        let mut jobs = Counts::default();
        (jobs.ready, jobs.dead) = (ready, dead);
        let tasks = vec![TaskInfo::new("t".to_owned(), jobs)];
        let serving = Serving::default();
        Look {
            at: Utc::now(),
            taken,
            tasks,
            workers: Vec::new(),
            serving,
            counts: Tally::of(&jobs, Precision::Exact),
            last_id: last_id.map(JobId::from),
        }
    }

    #[test]
    fn rates_and_changes_are_those_between_two_looks() {
        let begin = Instant::now();
        let (first, second) = (look(10, 0, Some(10), begin), look(4, 1, Some(30), begin + Duration::from_secs(2)));
        assert_eq!(second.rates_since(&first).as_deref(), Some("10.0/s added, 12.5/s done"));
        let lines = second.totals_since(Some(&first)).lines(&Screen::default());
        assert_eq!(lines[2], "change     -6          0        0         0    +1");
        let unknown = look(4, 1, None, begin + Duration::from_secs(2));
        assert_eq!(unknown.rates_since(&first), None);
        assert_eq!(rate(1_234, 1.0), "1234/s");
        assert_eq!(rate(0, 1.0), "0/s");
    }
}
