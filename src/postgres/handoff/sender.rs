//! Knowing receivers, choosing one, and handing off.
//!
//! Which workers there are is looked up now and then, beside adding and never in its way. Whether one offers at this moment is
//! asked by the statement that adds; one that did not is left alone for a while.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sqlx::PgConnection;

use super::super::PostgresStorage;
use super::super::add_one::store_one;
use super::super::connection::rights::Need;
use super::super::connection::row::{Text, Timestamp};
use crate::error::{Error, Result};
use crate::job::{Job, JobId, NewJob};

/// How often receivers are looked up while single jobs are added and taken.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// The same where the known ones do not take jobs.
const LOOK_SOON: Duration = Duration::from_secs(1);
/// The same where there was none.
const LOOK_IN_VAIN_EVERY: Duration = Duration::from_secs(5);
/// How long one that did not take a job is left alone, at first and at the most.
const REST: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// A worker to which a job may be handed off.
#[derive(Clone, Debug)]
pub(in crate::postgres) struct HandoffReceiver {
    pub worker: String,
    pub channel: String,
    /// The last job that was handed off to it from here.
    pub last: Option<JobId>,
}

/// The receivers that one client knows.
#[derive(Debug, Default)]
pub(in crate::postgres) struct HandoffSender(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    known: Vec<Known>,
    /// Where to begin to choose: in turn.
    next: usize,
    look_at: Option<Instant>,
}

#[derive(Debug)]
struct Known {
    receiver: HandoffReceiver,
    tasks: HashSet<String>,
    rests_until: Option<Instant>,
    rest: Duration,
}

impl HandoffSender {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who may take this job: one that can start at once, wherever it is run, and has another attempt if its receiver has died.
    pub fn choose(&self, job: &NewJob) -> Option<HandoffReceiver> {
        let mut state = self.state();
        if !job.is_bare() || job.max_attempts < 2 || state.known.is_empty() {
            return None;
        }
        let now = Instant::now();
        let many = state.known.len();
        let place = (0..many).map(|step| (state.next + step) % many).find(|place| {
            let known = &state.known[*place];
            known.rests_until.is_none_or(|until| now >= until) && known.tasks.contains(&job.task)
        })?;
        state.next = place + 1;
        Some(state.known[place].receiver.clone())
    }

    /// What became of the try: the job that was handed off, or nothing.
    pub fn learn(&self, receiver: &HandoffReceiver, handed_off: Option<JobId>) {
        let mut state = self.state();
        let Some(known) = state.known.iter_mut().find(|known| known.receiver.channel == receiver.channel) else {
            return;
        };
        if handed_off.is_some() {
            known.receiver.last = handed_off;
            known.rests_until = None;
            known.rest = REST.0;
        } else {
            let now = Instant::now();
            known.rests_until = Some(now + known.rest);
            known.rest = (known.rest * 2).min(REST.1);
            let soon = now + LOOK_SOON;
            state.look_at = state.look_at.map(|time| time.min(soon));
        }
    }

    /// Nobody takes anything, until receivers are looked up again.
    pub fn forget(&self) {
        self.state().known.clear();
    }

    /// Whether it is time to look, and then nobody else need.
    fn is_time(&self) -> bool {
        let mut state = self.state();
        let now = Instant::now();
        let due = state.look_at.is_none_or(|time| now >= time);
        if due {
            state.look_at = Some(now + LOOK_IN_VAIN_EVERY);
        }
        due
    }

    fn found(&self, found: Vec<Row>) {
        let mut state = self.state();
        let mut before = std::mem::take(&mut state.known);
        let first = before.is_empty();
        state.known = found
            .into_iter()
            .filter_map(Row::read)
            .map(|row| match before.iter().position(|known| known.receiver.channel == row.channel) {
                Some(place) => before.swap_remove(place),
                None => Known {
                    receiver: HandoffReceiver { worker: row.worker, channel: row.channel, last: None },
                    tasks: row.tasks,
                    rests_until: None,
                    rest: REST.0,
                },
            })
            .collect();
        if state.known.is_empty() {
            return;
        }
        if first {
            // Not all clients begin with the same one.
            state.next = fastrand::usize(..state.known.len());
        }
        state.look_at = Some(Instant::now() + LOOK_EVERY);
    }
}

struct Row {
    worker: Text,
    channel: Text,
    tasks: Vec<Text>,
}

struct Receiver {
    worker: String,
    channel: String,
    tasks: HashSet<String>,
}

impl Row {
    /// What is no text cannot be told back, so nothing is handed off to such a worker.
    fn read(self) -> Option<Receiver> {
        let readable = |text: Text| (!text.is_damaged).then_some(text.text);
        let tasks = self.tasks.into_iter().filter_map(readable).collect();
        Some(Receiver { worker: readable(self.worker)?, channel: readable(self.channel)?, tasks })
    }
}

struct Stored {
    id: i64,
    now: Timestamp,
    receiver: Option<String>,
    #[expect(dead_code, reason = "it is read by the database, which notifies nobody otherwise")]
    notified: bool,
}

impl PostgresStorage {
    /// Stores a job, handed off if this receiver takes it; `None` if that must not even be tried, and then it is not stored.
    pub(in crate::postgres) async fn hand_off(
        &self,
        job: &NewJob,
        receiver: &HandoffReceiver,
    ) -> Result<Option<Option<Job>>> {
        let stored = self.database.retrying_for(Need::Add, || async {
            let mut work = self.database.work().await?;
            let stored = self.insert_handoff(&mut work, job, receiver).await?;
            self.database.done(work).await?;
            Ok(stored)
        });
        match stored.await {
            Ok(stored) => {
                let handed_off = stored.as_ref().filter(|job| job.locked_by.is_some()).map(|job| job.id);
                self.sender.learn(receiver, handed_off);
                Ok(Some(stored))
            }
            // It was taken away since they were looked up.
            Err(Error::MissingPrivilege { .. }) => {
                self.sender.forget();
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Stores a plain job, handed off if this receiver offers at this moment.
    async fn insert_handoff(
        &self,
        conn: &mut PgConnection,
        job: &NewJob,
        receiver: &HandoffReceiver,
    ) -> Result<Option<Job>> {
        // Locking: as by any statement that stores one job, and the receiver's row as a claim locks it: against a rescuer, for whom
        // nobody waits.
        let stored = store_one!(
            Stored,
            r#"
-- The receiver, if its channel is still the same, it is rid of the last job from here, and its offer stands: then its lock cannot be
-- had.
receiver as materialized (
  select pool.id
  from graphile_worker.backfill_pools pool
  where pool.id = $5
    and pool.handover = $6
    and pool.seen_at > 'epoch'
    and not exists (select from graphile_worker._private_jobs last where last.id = $7 and last.locked_by = $5)
    and not pg_try_advisory_xact_lock_shared(hashtextextended($6, 0))
  for key share skip locked
),
job as (
  insert into graphile_worker._private_jobs as job
    (task_id, payload, max_attempts, priority, attempts, locked_at, locked_by)
  select
    task.id,
    $2::text::json,
    $3::smallint,
    $4::smallint,
    case when receiver.id is null then 0 else 1 end,
    case when receiver.id is not null then now() end,
    receiver.id
  from task
  left join receiver on true
  where not (select guard.stands from guard)
  returning job.id, job.locked_by
)
select
  job.id,
  now() as "now!: Timestamp",
  job.locked_by as "receiver?",
  case
    when job.locked_by is null then pg_notify('jobs:insert', '{"r":' || random()::text || ',"count":1}')
    else pg_notify($6, job.id::text)
  end is null as "notified!"
from job
"#,
            job.task,
            job.payload.as_str(),
            job.max_attempts,
            job.priority.0,
            receiver.worker,
            receiver.channel,
            receiver.last.map(JobId::number),
        )
        .fetch_optional(self.database.schema.on(conn))
        .await
        .map_err(|e| self.database.error("store a job", e))?;
        Ok(stored.map(|stored| {
            let now = stored.now.0;
            let mut job = job.stored(stored.id, now, now);
            if stored.receiver.is_some() {
                job.attempts = 1;
                job.locked_at = Some(now);
                job.locked_by = stored.receiver;
            }
            job
        }))
    }

    /// Looks up receivers if it is time, in a task of its own: nobody waits for that.
    pub(in crate::postgres) fn look_for_receivers(&self) {
        if self.sender.is_time() {
            let storage = self.clone();
            drop(tokio::spawn(async move {
                match storage.read_receivers().await {
                    Ok(found) => storage.sender.found(found),
                    // Then jobs are claimed, as ever.
                    Err(error) => tracing::debug!(%error, "could not look for workers that take jobs"),
                }
            }));
        }
    }

    async fn read_receivers(&self) -> Result<Vec<Row>> {
        sqlx::query_as!(
            Row,
            r#"
select pool.id as "worker!: Text", pool.handover as "channel!: Text", pool.tasks as "tasks!: Vec<Text>"
from graphile_worker.backfill_pools pool
where pool.handover is not null
  and pool.tasks is not null
  and pool.seen_at > 'epoch'
  -- To hand over locks the row, which takes this privilege. (Of a role that lacks it, nobody is asked for more.)
  and has_any_column_privilege(pool.tableoid, 'update')
  -- As in `jobs!`.
  and (
      select set_config('client_encoding', 'SQL_ASCII', true) where current_setting('server_encoding') = 'SQL_ASCII'
    ) is distinct from ''
order by pool.started_at desc
limit 64
"#
        )
        .fetch_all(self.database.schema.on(&self.database.db()))
        .await
        .map_err(|e| self.database.error("look for workers that take jobs", e))
    }
}
