//! The scheduler: adds what is due.
//!
//! It knows, for each entry, the next moment at which it is due, waits for the earliest of them by this process's clock, and
//! asks the storage to add the jobs of all entries that are due then. The storage is the gate: of all schedulers that ask
//! for one identifier and moment, one gets its job added, and none for an older moment after a newer one. So asking twice is
//! harmless, and whatever fails is simply asked again.
//!
//! An entry whose job the storage refuses holds up no other: each is asked for by itself then. What may pass by itself is asked for
//! again after a *rest*, beside which the other entries go on.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::sleep;

use super::{CronEntry, CronEvent};
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::job::Job;
use crate::storage::{DueJob, GuardedCalls};

/// The clock is looked at this often while nothing is due, in case it was changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A call that has not been answered for this long never will be.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// The delays between tries while the storage fails.
const FIRST_DELAY: Duration = Duration::from_millis(200);
const MAX_DELAY: Duration = Duration::from_secs(10);
/// A moment this old still counts as the present one after an outage.
const PRESENT: TimeDelta = TimeDelta::seconds(60);
/// How far back everything is made up after the process was paused or its clock jumped, whatever `fill` says. Node makes up
/// for any length of time; a machine that booted with a clock of 1970 shows why there is a limit.
const PAUSE_LIMIT: TimeDelta = TimeDelta::hours(1);
/// A clock that was set back by more than this makes the scheduler start anew.
const SET_BACK: TimeDelta = TimeDelta::hours(1);
const INSTANT: TimeDelta = TimeDelta::nanoseconds(1);

/// Runs the entries of a crontab.
pub(crate) struct Scheduler {
    pub calls: GuardedCalls,
    pub entries: Vec<CronEntry>,
    pub clock: Clock,
    pub max_payload_bytes: usize,
    /// Is told everything.
    pub report: Box<dyn Fn(CronEvent) + Send + Sync>,
}

/// Where a run stands.
struct Plan {
    started: DateTime<Utc>,
    /// When each entry is due next.
    upcoming: Vec<Option<DateTime<Utc>>>,
    /// Entries that were refused for what may pass.
    rests: Vec<Option<Rest>>,
    /// The storage failed, and what was due meanwhile is not made up for yet.
    outage: bool,
    last_look: DateTime<Utc>,
    delay: Duration,
}

/// When an entry is asked for again that was refused.
#[derive(Clone, Copy)]
struct Rest {
    until: DateTime<Utc>,
    delay: Duration,
}

impl Plan {
    fn new(started: DateTime<Utc>, upcoming: Vec<Option<DateTime<Utc>>>) -> Self {
        let rests = vec![None; upcoming.len()];
        Self { started, upcoming, rests, outage: false, last_look: started, delay: FIRST_DELAY }
    }

    /// When there is something to do, if ever: an entry is due, and has rested.
    fn next(&self) -> Option<DateTime<Utc>> {
        (0..self.upcoming.len()).filter_map(|place| self.ready(place)).min()
    }

    fn ready(&self, place: usize) -> Option<DateTime<Utc>> {
        self.upcoming[place].map(|due| self.rests[place].map_or(due, |rest| due.max(rest.until)))
    }

    /// The earliest moment that is due by now, and whose turn it is.
    fn due(&self, now: DateTime<Utc>) -> Option<(DateTime<Utc>, Vec<usize>)> {
        let is_ready = |place: &usize| self.ready(*place).is_some_and(|time| time <= now);
        let ready: Vec<usize> = (0..self.upcoming.len()).filter(is_ready).collect();
        let moment = ready.iter().filter_map(|place| self.upcoming[*place]).min()?;
        Some((moment, ready.into_iter().filter(|place| self.upcoming[*place] == Some(moment)).collect()))
    }

    fn rest(&mut self, place: usize, now: DateTime<Utc>) {
        let delay = self.rests[place].map_or(FIRST_DELAY, |rest| rest.delay.mul_f64(1.5).min(MAX_DELAY));
        let until = TimeDelta::from_std(delay).ok().and_then(|delay| now.checked_add_signed(delay)).unwrap_or(now);
        self.rests[place] = Some(Rest { until, delay });
    }
}

impl Scheduler {
    /// Runs until it is dropped, which is safe at any moment: each call is whole or not at all.
    pub(crate) async fn run(self) {
        loop {
            let mut plan = self.begin().await;
            while self.turn(&mut plan).await {}
        }
    }

    /// Reads what is known of the entries, and plans what is due next, starting with what is to be caught up.
    async fn begin(&self) -> Plan {
        (self.report)(CronEvent::Starting);
        let mut delay = FIRST_DELAY;
        loop {
            let started = self.clock.now();
            match self.calls.call(CALL_TIMEOUT, self.plan(started)).await {
                Ok(upcoming) => {
                    (self.report)(CronEvent::Started { at: started });
                    return Plan::new(started, upcoming);
                }
                Err(error) => self.pause(&error, &mut delay).await,
            }
        }
    }

    async fn add_due(&self, moment: DateTime<Utc>, due: &[DueJob]) -> Result<Vec<Option<Job>>> {
        self.calls.storage().require_schedules()?.add_due(moment, due).await
    }

    async fn plan(&self, started: DateTime<Utc>) -> Result<Vec<Option<DateTime<Utc>>>> {
        let known: HashMap<String, _> = self
            .calls
            .storage()
            .require_schedules()?
            .known_crontabs()
            .await?
            .into_iter()
            .map(|known| (known.identifier.clone(), known))
            .collect();
        let new: Vec<String> = self
            .entries
            .iter()
            .filter(|entry| !known.contains_key(&entry.identifier))
            .map(|entry| entry.identifier.clone())
            .collect();
        if !new.is_empty() {
            self.calls.storage().require_schedules()?.register_crontabs(&new, started).await?;
        }
        let upcoming = self.entries.iter().map(|entry| {
            let from = known.get(&entry.identifier).map_or(started, |known| {
                // The moment itself may not have got its job; if it did, the storage refuses a second one.
                let not_before = known.last_execution.unwrap_or(known.known_since);
                if known.last_execution.is_some_and(|last| last > started + PRESENT) {
                    tracing::warn!(
                        identifier = entry.identifier, last_execution = %not_before,
                        "the crontab entry's last job is of the future; nothing is added before that time"
                    );
                }
                not_before.max(earlier(started, entry.backfill)).min(started)
            });
            let first = entry.schedule.candidate_after(from.checked_sub_signed(INSTANT)?)?;
            if first < started {
                let identifier = entry.identifier.clone();
                tracing::info!(identifier, since = %first, "catching a crontab entry up");
                (self.report)(CronEvent::Backfilling { identifier, since: first });
            }
            Some(first)
        });
        Ok(upcoming.collect())
    }

    /// Waits for the next due moment and adds its jobs; answers whether the plan still holds.
    async fn turn(&self, plan: &mut Plan) -> bool {
        let Some(next) = plan.next() else {
            return std::future::pending().await;
        };
        let Some(now) = self.wait_until(next, plan).await else { return false };
        if plan.upcoming.iter().flatten().all(|due| *due >= plan.started) {
            self.give_up_missed(now, plan);
        }
        let Some((next, due)) = plan.due(now) else {
            plan.outage &= plan.upcoming.iter().flatten().any(|due| *due <= now);
            return true;
        };
        // Thousands of moments may have to be made up for, and a closure may say no to each: others get their turn.
        tokio::task::yield_now().await;
        let late = now - next;
        let rested = due.iter().any(|place| plan.rests[*place].is_some());
        let backfilled = next < plan.started || ((plan.outage || rested) && late >= PRESENT);
        match self.add(next, &due, backfilled).await {
            Ok(refused) => {
                plan.delay = FIRST_DELAY;
                for place in due {
                    if refused.contains(&place) {
                        plan.rest(place, self.clock.now());
                    } else {
                        plan.rests[place] = None;
                        plan.upcoming[place] = self.entries[place].schedule.candidate_after(next);
                    }
                }
                if plan.upcoming.iter().flatten().all(|due| *due > now) {
                    plan.outage = false;
                }
            }
            Err(error) => {
                plan.outage = true;
                self.pause(&error, &mut plan.delay).await;
            }
        }
        true
    }

    /// Answers the time when it has come, or `None` if the clock was set back.
    async fn wait_until(&self, moment: DateTime<Utc>, plan: &mut Plan) -> Option<DateTime<Utc>> {
        loop {
            let now = self.clock.now();
            if now < plan.last_look - SET_BACK {
                tracing::warn!(was = %plan.last_look, %now, "the clock was set back; the crontab starts anew");
                (self.report)(CronEvent::SetBack { was: plan.last_look, now });
                return None;
            }
            // What was due before the last look was not missed by the clock: it is being caught up.
            let was_to_come = plan.last_look < moment;
            plan.last_look = now;
            if now >= moment {
                if was_to_come && now - moment >= PRESENT {
                    tracing::warn!(expected = %moment, %now, "the crontab is late; making up for what was due");
                    (self.report)(CronEvent::Late { expected: moment, now });
                }
                return Some(now);
            }
            sleep((moment - now).to_std().unwrap_or_default().min(LOOK_EVERY)).await;
        }
    }

    /// Moves entries on past what is too old to be made up for.
    fn give_up_missed(&self, now: DateTime<Utc>, plan: &mut Plan) {
        for (place, entry) in self.entries.iter().enumerate() {
            let excuse = if plan.outage || plan.rests[place].is_some() { PRESENT } else { PAUSE_LIMIT };
            let upcoming = &mut plan.upcoming[place];
            let oldest = earlier(now, entry.backfill).min(now - excuse);
            let Some(from) = upcoming.filter(|due| *due < oldest) else { continue };
            *upcoming = entry.schedule.candidate_after(oldest - INSTANT);
            tracing::warn!(identifier = entry.identifier, %from, "the crontab entry missed a due time; see its option fill");
            (self.report)(CronEvent::Missed { identifier: entry.identifier.clone(), from, until: *upcoming });
        }
    }

    /// Adds the jobs of these entries. What the storage refuses must not keep it from the others: answers the places of those that
    /// were refused for what may pass.
    async fn add(&self, moment: DateTime<Utc>, due: &[usize], backfilled: bool) -> Result<Vec<usize>> {
        let (mut jobs, mut places) = (Vec::new(), Vec::new());
        for place in due.iter().copied().filter(|place| self.entries[*place].schedule.is_due_at(moment)) {
            let entry = &self.entries[place];
            match entry.job_at(moment, backfilled, self.max_payload_bytes) {
                Ok(job) => {
                    jobs.push(DueJob { identifier: entry.identifier.clone(), job });
                    places.push(place);
                }
                Err(error) => self.refused(moment, &entry.identifier, &error),
            }
        }
        let mut to_rest = Vec::new();
        if jobs.is_empty() {
            return Ok(to_rest);
        }
        let identifiers = jobs.iter().map(|due| due.identifier.clone()).collect();
        (self.report)(CronEvent::Due { at: moment, identifiers });
        match self.calls.call(CALL_TIMEOUT, self.add_due(moment, &jobs)).await {
            Ok(added) => self.added(moment, &jobs, added, backfilled),
            Err(error) if is_outage(&error) => return Err(error),
            Err(_) => {
                for (place, job) in places.into_iter().zip(jobs) {
                    let alone = std::slice::from_ref(&job);
                    match self.calls.call(CALL_TIMEOUT, self.add_due(moment, alone)).await {
                        Ok(added) => self.added(moment, alone, added, backfilled),
                        Err(error) if is_outage(&error) => return Err(error),
                        Err(error) if error.is_transient() => {
                            let identifier = &job.identifier;
                            tracing::warn!(identifier, at = %moment, %error, "a crontab entry's job was refused; trying again");
                            (self.report)(CronEvent::Unavailable { error: error.to_string() });
                            to_rest.push(place);
                        }
                        Err(error) => self.refused(moment, &job.identifier, &error),
                    }
                }
            }
        }
        Ok(to_rest)
    }

    fn added(&self, at: DateTime<Utc>, asked: &[DueJob], added: Vec<Option<Job>>, backfilled: bool) {
        for (due, job) in asked.iter().zip(added) {
            let identifier = due.identifier.clone();
            match job {
                Some(job) => {
                    tracing::debug!(identifier, job = %job.id, %at, backfilled, "added a job of the crontab");
                    (self.report)(CronEvent::Added { at, identifier, job: Arc::new(job), backfilled });
                }
                None => (self.report)(CronEvent::Taken { at, identifier }),
            }
        }
    }

    fn refused(&self, at: DateTime<Utc>, identifier: &str, error: &Error) {
        tracing::error!(identifier, %at, %error, "the crontab entry's job was refused");
        (self.report)(CronEvent::Refused { at, identifier: identifier.to_owned(), error: error.to_string() });
    }

    async fn pause(&self, error: &Error, delay: &mut Duration) {
        tracing::warn!(%error, ?delay, "the crontab cannot be run at present; trying again");
        (self.report)(CronEvent::Unavailable { error: error.to_string() });
        sleep(delay.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        *delay = delay.mul_f64(1.5).min(MAX_DELAY);
    }
}

/// Whether it is the storage that failed, and not what it was asked for.
fn is_outage(error: &Error) -> bool {
    error.is_transient() && !error.is_answer()
}

/// A time that is this much earlier, or the earliest there is.
fn earlier(time: DateTime<Utc>, by: Duration) -> DateTime<Utc> {
    TimeDelta::from_std(by).ok().and_then(|by| time.checked_sub_signed(by)).unwrap_or(DateTime::<Utc>::MIN_UTC)
}
