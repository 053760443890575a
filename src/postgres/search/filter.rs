//! What of a query the statements understand.
//!
//! Of each kind of term they know one that must hold; whatever else there is, the jobs that come are held against afterwards. So a statement
//! may let through what is not wanted, and never leaves out what is.

use chrono::{DateTime, Utc};

use crate::job::{JobId, JobState};
use crate::postgres::connection::row::EARLIEST;
use crate::search::{Pattern, Range, Search, Test, TimeRange, ValueTest};

/// The names that a query is about, and their ids.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// All tasks.
    pub tasks: Vec<(i32, String)>,
    /// The one queue that jobs must be in.
    pub queue: Option<i32>,
}

/// The arguments of the statements. `None` is a condition that is not there.
#[derive(Debug)]
pub(super) struct Filter<'a> {
    pub search: &'a Search,
    /// The time of the whole search.
    pub now: DateTime<Utc>,
    pub payloads: bool,
    pub ids: Range,
    pub states: Option<Vec<String>>,
    pub tasks: Option<Vec<i32>>,
    pub queue: Option<i32>,
    pub queue_like: Option<String>,
    pub key_like: Option<String>,
    pub worker_like: Option<String>,
    pub error_like: Option<String>,
    pub flag: Option<String>,
    pub priority: Range,
    pub attempts: Range,
    pub created: Times,
    pub due: Times,
    pub value: Value,
    /// Of a word alone: the tasks, and the keys.
    pub name_tasks: Option<Vec<i32>>,
    pub name_like: Option<String>,
}

/// Between two times.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Times {
    pub after: Option<DateTime<Utc>>,
    pub before: Option<DateTime<Utc>>,
}

/// A value in the payload.
#[derive(Debug, Default)]
pub(super) struct Value {
    pub path: Option<Vec<String>>,
    pub like: Option<String>,
    /// Numbers, as text: PostgreSQL compares as many digits as there are.
    pub equals: Option<String>,
    pub least: Option<String>,
    pub most: Option<String>,
}

impl Times {
    fn and(self, range: &TimeRange, now: DateTime<Utc>) -> Self {
        let time = |when: Option<crate::search::When>| when.map(|when| when.time(now).max(EARLIEST));
        Self {
            after: self.after.into_iter().chain(time(range.after)).max(),
            before: self.before.into_iter().chain(time(range.before)).min(),
        }
    }
}

impl Value {
    fn of(path: &[String], test: &ValueTest) -> Self {
        let path = Some(path.to_vec());
        match test {
            ValueTest::Is(pattern) => Self {
                path,
                like: Some(pattern.to_like()),
                equals: pattern.exact().filter(|text| is_number(text)).map(str::to_owned),
                ..Self::default()
            },
            ValueTest::Number { least, most, .. } => Self {
                path,
                least: least.map(|number| number.to_string()),
                most: most.map(|number| number.to_string()),
                ..Self::default()
            },
            // Whatever it is, the jobs that come are held against it.
            _ => Self::default(),
        }
    }
}

/// A number that the server takes for one, and can hold.
fn is_number(text: &str) -> bool {
    text.len() < 100 && text.parse::<f64>().is_ok_and(f64::is_finite) && !text.contains(['n', 'i', 'N', 'I'])
}

impl<'a> Filter<'a> {
    /// `None` if a name that jobs must have is not known, so that there are none.
    pub fn of(search: &'a Search, names: &Names, now: DateTime<Utc>) -> Option<Self> {
        let query = &search.query;
        let states = query.states();
        let mut filter = Self {
            search,
            now,
            payloads: search.payloads || query.reads_payloads(),
            ids: query.ids(),
            states: (states.len() < JobState::ALL.len())
                .then(|| states.iter().map(|state| state.as_str().to_owned()).collect()),
            tasks: None,
            queue: None,
            queue_like: None,
            key_like: None,
            worker_like: None,
            error_like: None,
            flag: None,
            priority: Range::default(),
            attempts: Range::default(),
            created: Times::default(),
            due: Times::default(),
            value: Value::default(),
            name_tasks: None,
            name_like: None,
        };
        if query.queue().is_some() {
            filter.queue = Some(names.queue?);
        }
        for term in query.terms() {
            if let Test::Task(tasks) = &term.test {
                let is_meant = |name: &String| tasks.iter().any(|task| task.matches(name)) != term.negated;
                filter.narrow_tasks(&names.tasks, is_meant);
            }
            if !term.negated {
                filter.narrow(&term.test, names);
            }
        }
        let is_empty = filter.tasks.as_ref().is_some_and(Vec::is_empty) || states.is_empty();
        (!is_empty).then_some(filter)
    }

    fn narrow_tasks(&mut self, known: &[(i32, String)], is_meant: impl Fn(&String) -> bool) {
        let meant = known.iter().filter(|(_, name)| is_meant(name)).map(|(id, _)| *id);
        self.tasks = Some(match self.tasks.take() {
            None => meant.collect(),
            Some(before) => meant.filter(|id| before.contains(id)).collect(),
        });
    }

    /// A term that must hold.
    fn narrow(&mut self, test: &Test, names: &Names) {
        let like = |place: &mut Option<String>, pattern: &Pattern| {
            place.get_or_insert_with(|| pattern.to_like());
        };
        match test {
            Test::Queue(queue) if queue.exact().is_none() => like(&mut self.queue_like, queue),
            Test::Key(key) => like(&mut self.key_like, key),
            Test::Worker(worker) => like(&mut self.worker_like, worker),
            Test::Error(part) => {
                self.error_like.get_or_insert_with(|| format!("%{}%", Pattern::Exact(part.clone()).to_like()));
            }
            Test::Flag(flag) => {
                self.flag.get_or_insert_with(|| flag.clone());
            }
            Test::Priority(range) => self.priority = self.priority.and(*range),
            Test::Attempts(range) => self.attempts = self.attempts.and(*range),
            Test::Created(range) => self.created = self.created.and(range, self.now),
            Test::Due(range) => self.due = self.due.and(range, self.now),
            Test::Payload { path, test } if self.value.path.is_none() => self.value = Value::of(path, test),
            Test::Name(name) if self.name_like.is_none() => {
                self.name_like = Some(name.to_like());
                let meant = names.tasks.iter().filter(|(_, task)| name.matches(task)).map(|(id, _)| *id);
                self.name_tasks = Some(meant.collect());
            }
            _ => {}
        }
    }

    /// The one state that jobs must be in.
    pub fn only_state(&self) -> Option<JobState> {
        match self.search.query.states()[..] {
            [state] => Some(state),
            _ => None,
        }
    }

    /// The ids between which jobs are wanted, behind the place.
    pub fn bounds(&self, is_descending: bool, after: Option<JobId>) -> (i64, i64) {
        let (mut least, mut most) = (self.ids.least.unwrap_or(i64::MIN), self.ids.most.unwrap_or(i64::MAX));
        if let Some(after) = after {
            if is_descending {
                most = most.min(after.number().saturating_sub(1));
            } else {
                least = least.max(after.number().saturating_add(1));
            }
        }
        (least, most)
    }
}

/// Selects a page of jobs: `page!(filter, limit, "predicate of the way", "order"; arguments…)`. The way's own arguments are `$27` and so on.
///
/// Nothing here leaves out a job that is wanted. What a payload's `#>>` cannot unescape (a NUL, half a pair of surrogates, a character that
/// the database's encoding lacks) would fail the statement: a payload with any `\u` is let through.
macro_rules! page {
    ($filter:expr, $limit:expr, $predicate:literal, $order:literal $(; $($argument:expr),+)?) => {
        $crate::postgres::connection::row::jobs!(
            payload: "(case when $1 then job.payload else '{}'::json end)::text",
            "",
            r#"
from graphile_worker._private_jobs job
join graphile_worker._private_tasks task on task.id = job.task_id
left join graphile_worker._private_job_queues queue on queue.id = job.job_queue_id
where ($2::text[] is null or case
    when job.locked_at is not null then 'running'
    when job.attempts >= job.max_attempts then 'dead'
    when job.attempts > 0 and job.last_error is not null then 'retrying'
    when job.run_at > $3::timestamptz then 'scheduled'
    else 'ready'
  end = any ($2))
  and ($4::integer[] is null or job.task_id = any ($4))
  and ($5::integer is null or job.job_queue_id = $5)
  and ($6::text is null or queue.queue_name like $6)
  and ($7::text is null or job.key like $7)
  and ($8::text is null or job.locked_by like $8)
  and ($9::text is null or job.last_error ilike $9)
  and ($10::text is null or job.flags ? $10)
  and ($11::bigint is null or job.priority >= $11)
  and ($12::bigint is null or job.priority <= $12)
  and ($13::bigint is null or job.attempts >= $13)
  and ($14::bigint is null or job.attempts <= $14)
  and ($15::timestamptz is null or job.created_at > $15)
  and ($16::timestamptz is null or job.created_at < $16)
  and ($17::timestamptz is null or job.run_at > $17)
  and ($18::timestamptz is null or job.run_at < $18)
  and ($19::text[] is null or case
    when position('\u' in job.payload::text) > 0 then true
    when $20::text is not null and job.payload #>> $19 like $20 then true
    when coalesce($21::text, $22::text, $23::text) is null then false
    when job.payload #>> $19 ~ '^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?$' then
      ($21::text is null or (job.payload #>> $19)::numeric = $21::text::numeric)
      and ($22::text is null or (job.payload #>> $19)::numeric >= $22::text::numeric)
      and ($23::text is null or (job.payload #>> $19)::numeric <= $23::text::numeric)
    else false
  end)
  and ($25::text is null or job.task_id = any ($24::integer[]) or job.key like $25)
  and "#
            + $predicate
            + r#"
order by "#
            + $order
            + r#"
limit $26::bigint"#,
            $filter.payloads,
            $filter.states.as_deref() as Option<&[String]>,
            $filter.now,
            $filter.tasks.as_deref(),
            $filter.queue,
            $filter.queue_like,
            $filter.key_like,
            $filter.worker_like,
            $filter.error_like,
            $filter.flag,
            $filter.priority.least,
            $filter.priority.most,
            $filter.attempts.least,
            $filter.attempts.most,
            $filter.created.after,
            $filter.created.before,
            $filter.due.after,
            $filter.due.before,
            $filter.value.path.as_deref() as Option<&[String]>,
            $filter.value.like,
            $filter.value.equals,
            $filter.value.least,
            $filter.value.most,
            $filter.name_tasks.as_deref(),
            $filter.name_like,
            $limit
            $($(, $argument)+)?
        )
    };
}
pub(super) use page;
