//! Reading what a claim answers.
//!
//! One statement answers rows of several kinds, joined here: one that tells how it went and comes first, the names of the tasks, the
//! names of the queues, and the jobs.

use std::collections::HashMap;
use std::time::Duration;

use sqlx::postgres::types::PgInterval;

use super::super::connection::row::{JobRow, MaybeText, Text, Timestamp, token};
use super::super::state::Course;
use crate::job::Job;
use crate::storage::{ClaimRequest, Claimed, ClaimedJob};

/// One row; of which kind, its empty fields tell.
pub(super) struct Row {
    pub id: Option<i64>,
    pub task_id: Option<i32>,
    pub queue_id: Option<i32>,
    /// The payload of a job, or the name of a task or queue.
    pub text: MaybeText,
    pub priority: Option<i16>,
    pub run_at: Option<Timestamp>,
    pub attempts: Option<i16>,
    pub max_attempts: Option<i16>,
    pub last_error: MaybeText,
    pub created_at: Option<Timestamp>,
    pub updated_at: Option<Timestamp>,
    pub key: MaybeText,
    pub revision: Option<i32>,
    pub flags: MaybeText,
    pub locked_at: Option<Timestamp>,
    pub more: Option<bool>,
    pub last_left: Option<bool>,
    pub plain_end_priority: Option<i16>,
    pub plain_end_time: Option<Timestamp>,
    pub plain_took: Option<PgInterval>,
    pub queue_end_priority: Option<i16>,
    pub queue_end_time: Option<Timestamp>,
    pub queue_took: Option<PgInterval>,
    pub seen_queues: Option<Vec<i32>>,
    pub seen_levels: Option<Vec<i16>>,
}

/// Selects such rows: what stands after the list of columns. A macro, because the checked ones take literals only.
macro_rules! claimed_rows {
    ($from:literal $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            answer::Row,
            r#"
select
  id,
  task_id,
  queue_id,
  text as "text?: crate::postgres::connection::row::Text",
  priority,
  run_at as "run_at: crate::postgres::connection::row::Timestamp",
  attempts,
  max_attempts,
  last_error as "last_error?: crate::postgres::connection::row::Text",
  created_at as "created_at: crate::postgres::connection::row::Timestamp",
  updated_at as "updated_at: crate::postgres::connection::row::Timestamp",
  key as "key?: crate::postgres::connection::row::Text",
  revision,
  flags as "flags?: crate::postgres::connection::row::Text",
  locked_at as "locked_at: crate::postgres::connection::row::Timestamp",
  more,
  last_left,
  plain_end_priority,
  plain_end_time as "plain_end_time: crate::postgres::connection::row::Timestamp",
  plain_took,
  queue_end_priority,
  queue_end_time as "queue_end_time: crate::postgres::connection::row::Timestamp",
  queue_took,
  seen_queues,
  seen_levels"#
            + $from
            $(, $argument)*
        )
    };
}
pub(super) use claimed_rows;

/// By ids of the database.
type ByNumber<V> = HashMap<i32, V, foldhash::fast::RandomState>;

/// Joins the rows.
pub(super) struct Reader<'a> {
    request: &'a ClaimRequest<'a>,
    tasks: ByNumber<String>,
    queues: ByNumber<String>,
    /// Rows of jobs whose names are not here yet. (The names come first, though no standard says so.)
    unnamed: Vec<Row>,
    claimed: Claimed,
    course: Course,
}

impl<'a> Reader<'a> {
    pub fn new(request: &'a ClaimRequest<'a>) -> Self {
        Self {
            request,
            tasks: ByNumber::default(),
            queues: ByNumber::default(),
            unnamed: Vec::new(),
            claimed: Claimed::default(),
            course: Course::default(),
        }
    }

    pub fn take(&mut self, row: Row) {
        match (row.id, row.task_id, row.queue_id) {
            (Some(id), Some(task), queue) => {
                let known =
                    self.tasks.contains_key(&task) && queue.is_none_or(|queue| self.queues.contains_key(&queue));
                if known {
                    self.take_job(id, task, row);
                } else {
                    self.unnamed.push(row);
                }
            }
            (None, Some(task), _) => drop(self.tasks.insert(task, row.text.into_string().unwrap_or_default())),
            (None, None, Some(queue)) => drop(self.queues.insert(queue, row.text.into_string().unwrap_or_default())),
            (_, None, None) => self.learn(row),
            (Some(_), None, Some(_)) => {}
        }
    }

    fn learn(&mut self, row: Row) {
        self.claimed.more = row.more.unwrap_or_default();
        self.claimed.for_free_slots = row.last_left.unwrap_or_default();
        let end = |priority: Option<i16>, time: Option<Timestamp>| priority.zip(time.map(|time| time.0));
        self.course = Course {
            moment: row.locked_at.map(|time| time.0),
            plain_end: end(row.plain_end_priority, row.plain_end_time),
            plain_took: row.plain_took.map(duration).unwrap_or_default(),
            queue_end: end(row.queue_end_priority, row.queue_end_time),
            queue_took: row.queue_took.map(duration),
            seen_queues: row.seen_queues.unwrap_or_default(),
            seen_levels: row.seen_levels.unwrap_or_default(),
            left_out: false,
        };
    }

    fn take_job(&mut self, id: i64, task: i32, row: Row) {
        let job = || {
            let moment = self.course.moment?;
            let job = Job::from(JobRow {
                id,
                task: self.tasks.get(&task)?.clone().into(),
                queue: row.queue_id.and_then(|queue| self.queues.get(&queue).cloned()).map(Text::from),
                payload: row.text.0?,
                priority: row.priority?,
                run_at: row.run_at?,
                attempts: row.attempts?,
                max_attempts: row.max_attempts?,
                last_error: row.last_error.0,
                created_at: row.created_at?,
                updated_at: row.updated_at?,
                key: row.key.0,
                revision: row.revision?,
                flags: row.flags.0,
                locked_at: Some(Timestamp(moment)),
                locked_by: Some(self.request.worker.as_str().to_owned().into()),
            });
            Some(ClaimedJob::new(job, token(moment)))
        };
        self.claimed.jobs.extend(job());
    }

    /// The jobs in the order in which they should start and whether there may be more; and how it went.
    pub fn end(mut self) -> (Claimed, Course) {
        for row in std::mem::take(&mut self.unnamed) {
            if let (Some(id), Some(task)) = (row.id, row.task_id) {
                self.take_job(id, task, row);
            }
        }
        self.claimed.jobs.sort_by_key(|job| (job.priority, job.run_at, job.id));
        // Names are told with what was taken only.
        self.course.left_out = self.claimed.jobs.is_empty() && !self.tasks.is_empty();
        (self.claimed, self.course)
    }
}

/// By the server's clock, which may have been set meanwhile.
fn duration(took: PgInterval) -> Duration {
    Duration::from_micros(took.microseconds.try_into().unwrap_or_default())
}
