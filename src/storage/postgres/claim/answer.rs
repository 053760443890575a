//! Reading what a claim answers.
//!
//! One statement answers rows of several kinds, joined here: one that always comes (how many candidates there were, even when
//! none could be taken, and the moment of the claim), the names of the tasks, the names of the queues, and the jobs.

use std::collections::HashMap;
use std::time::Duration;

use sqlx::postgres::types::PgInterval;

use super::super::row::{JobRow, Timestamp};
use crate::job::Job;
use crate::storage::{ClaimRequest, Claimed, PoolId};

/// One row; of which kind, its empty fields tell.
pub(super) struct Row {
    pub id: Option<i64>,
    pub task_id: Option<i32>,
    pub queue_id: Option<i32>,
    pub candidates: Option<i64>,
    /// The payload of a job, or the name of a task or queue.
    pub text: Option<String>,
    pub priority: Option<i16>,
    /// Of the row that always comes, the moment of the claim.
    pub run_at: Option<Timestamp>,
    pub attempts: Option<i16>,
    pub max_attempts: Option<i16>,
    pub last_error: Option<String>,
    pub created_at: Option<Timestamp>,
    pub updated_at: Option<Timestamp>,
    pub key: Option<String>,
    /// Of the row that always comes, one of the following, if anything was left.
    pub revision: Option<i32>,
    pub flags: Option<String>,
    /// How long the walk took.
    pub walk: Option<PgInterval>,
}

/// Jobs were left for their last attempts: they would have to wait for a slot. (1 is for their bytes.)
const LEFT_FOR_SLOTS: i32 = 2;
/// Everything was left, because something has to be.
const NOT_PLAIN: i32 = 3;

/// By ids of the database.
type ByNumber<V> = HashMap<i32, V, foldhash::fast::RandomState>;

/// Joins the rows.
pub(super) struct Reader<'a> {
    request: &'a ClaimRequest<'a>,
    tasks: ByNumber<String>,
    queues: ByNumber<String>,
    /// Rows of jobs whose names are not here yet. (The names come first, though no standard says so.)
    unnamed: Vec<Row>,
    jobs: Vec<Job>,
    candidates: i64,
    left: Option<i32>,
    locked_at: Option<Timestamp>,
    walk: Duration,
}

impl<'a> Reader<'a> {
    pub fn new(request: &'a ClaimRequest<'a>) -> Self {
        Self {
            request,
            tasks: ByNumber::default(),
            queues: ByNumber::default(),
            unnamed: Vec::new(),
            jobs: Vec::new(),
            candidates: 0,
            left: None,
            locked_at: None,
            walk: Duration::ZERO,
        }
    }

    pub fn take(&mut self, row: Row) {
        match (row.id, row.task_id, row.queue_id) {
            (Some(id), Some(task), queue) => {
                let known =
                    self.tasks.contains_key(&task) && queue.is_none_or(|queue| self.queues.contains_key(&queue));
                if known && self.locked_at.is_some() {
                    self.take_job(id, task, row);
                } else {
                    self.unnamed.push(row);
                }
            }
            (None, Some(task), _) => drop(self.tasks.insert(task, row.text.unwrap_or_default())),
            (None, None, Some(queue)) => drop(self.queues.insert(queue, row.text.unwrap_or_default())),
            (_, None, _) => {
                self.candidates = row.candidates.unwrap_or_default();
                self.jobs.reserve(usize::try_from(self.candidates).unwrap_or_default());
                self.left = row.revision;
                self.locked_at = row.run_at;
                // By the server's clock, which may have been set meanwhile.
                let micros = row.walk.and_then(|walk| walk.microseconds.try_into().ok());
                self.walk = Duration::from_micros(micros.unwrap_or_default());
            }
        }
    }

    fn take_job(&mut self, id: i64, task: i32, row: Row) {
        let pool: &PoolId = self.request.pool;
        let job = || {
            Some(Job::from(JobRow {
                id,
                task: self.tasks.get(&task)?.clone(),
                queue: row.queue_id.and_then(|queue| self.queues.get(&queue).cloned()),
                payload: row.text?,
                priority: row.priority?,
                run_at: row.run_at?,
                attempts: row.attempts?,
                max_attempts: row.max_attempts?,
                last_error: row.last_error,
                created_at: row.created_at?,
                updated_at: row.updated_at?,
                key: row.key,
                revision: row.revision?,
                flags: row.flags,
                locked_at: self.locked_at,
                locked_by: Some(pool.as_str().to_owned()),
            }))
        };
        self.jobs.extend(job());
    }

    /// The jobs in the order in which they should start and whether there may be more, or `None` if nothing was taken because
    /// something has to be left; and how long the walk took.
    pub fn end(mut self) -> (Option<Claimed>, Duration) {
        if self.left == Some(NOT_PLAIN) {
            return (None, self.walk);
        }
        for row in std::mem::take(&mut self.unnamed) {
            if let (Some(id), Some(task)) = (row.id, row.task_id) {
                self.take_job(id, task, row);
            }
        }
        self.jobs.sort_by_key(|job| (job.priority, job.run_at, job.id));
        let limit = i64::try_from(self.request.limit).unwrap_or(i64::MAX);
        let more = self.candidates >= limit || self.left.is_some();
        let for_free_slots = self.left == Some(LEFT_FOR_SLOTS);
        (Some(Claimed { jobs: self.jobs, more, for_free_slots, look_again: None }), self.walk)
    }
}
