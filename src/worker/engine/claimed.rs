//! What claims answer.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::super::events::Event;
use super::claiming::{FIRST_CLAIM_DELAY, FIRST_PAUSE, MAX_CLAIM_DELAY};
use super::claims::Answer;
use super::decision::MAX_UNWRITTEN;
use super::jobs::{RELEASE_AFTER, Waiting};
use super::queues::Found;
use super::{Engine, Mode};
use crate::job::Job;
use crate::storage::{Claimed, ClaimedJob, WorkerId, is_unanswered};

/// How long a claim waits for queues of our own to be freed.
const QUEUES_PAUSE: Duration = Duration::from_millis(10);

impl Engine {
    pub(super) fn claimed(&mut self, Answer { number, limit, worker, claimed }: Answer) {
        self.claims.asked -= limit;
        if self.claims.recovering == Some(number) {
            self.claims.recovering = None;
            self.handoff.unknown_released();
        }
        match claimed {
            Ok(claimed) if number <= self.claims.of_old_work && worker == self.registration.worker => {
                self.release_unstarted(in_runs(claimed.jobs, &worker, Instant::now()));
                self.look();
            }
            Ok(claimed) if worker != self.registration.worker => {
                // Asked for under an identity that has been given up since: others have these jobs, or will.
                let since = Instant::now();
                self.release_unstarted(in_runs(claimed.jobs, &worker, since));
            }
            Ok(claimed) => {
                self.events.tell(|| Event::Claimed { jobs: claimed.jobs.len() });
                self.claims.delay = FIRST_CLAIM_DELAY;
                self.claims.not_before = None;
                let found = found(&claimed, limit);
                // How many queues there are is not known that well.
                let as_asked = if self.queues.about().is_some() { limit / 4 * 3 } else { limit };
                self.claims.deep = found.side_by_side() >= as_asked;
                self.claims.in_time =
                    self.claims.in_time.map(|in_time| in_time * 2).filter(|in_time| *in_time < MAX_UNWRITTEN);
                // That nothing is left can be told by the newest claim only: an older one did not look as late.
                self.claims.more =
                    self.claims.woken || claimed.more || (self.claims.more && number < self.claims.newest);
                if let Some(pause) = claimed.rescan_after {
                    if pause.is_zero() {
                        // The claim ended before it had seen everything, and the next one goes on from there.
                        self.claims.more = true;
                    } else if self.mode == Mode::UntilIdle {
                        // A run that ends when idle has to be sure.
                        self.claims.full_scan = true;
                        self.claims.more = true;
                    } else {
                        self.looks.rescan_at(Instant::now() + pause);
                    }
                }
                let is_last = |job: &ClaimedJob| job.attempts >= job.max_attempts;
                if claimed.for_free_slots {
                    self.claims.only_slots = Some(number);
                } else if self.claims.only_slots.is_some_and(|told| number > told) && !claimed.jobs.iter().any(is_last)
                {
                    // Only a claim that was sent later has seen that they are gone.
                    self.claims.only_slots = None;
                }
                if claimed.for_free_slots {
                    self.claims.pause = FIRST_PAUSE;
                } else if claimed.more && claimed.jobs.is_empty() && claimed.rescan_after != Some(Duration::ZERO) {
                    // Everything in sight is in queues that others are taking at this moment.
                    self.claims.not_before = Some(Instant::now() + self.claims.pause);
                    self.claims.pause = (self.claims.pause * 2).min(self.options.poll_interval);
                } else {
                    self.claims.pause = FIRST_PAUSE;
                    self.delay_refetch(claimed.jobs.len());
                    self.learn_of_queues(found);
                }
                self.queues.take(found.queues);
                self.take_in(claimed.jobs);
                if self.handoff.beside_claim {
                    self.handoff.beside_claim = !self.claims.is_empty();
                    self.release_last_attempts();
                }
                if self.ending.is_some() || self.registration.registering.is_some() {
                    self.release_waiting();
                }
            }
            Err(error) if error.is_gone() => self.gone(error),
            Err(error) => {
                if !error.is_refusal() {
                    self.claims.doubt_since = Some(Instant::now());
                }
                if error.took_too_long() || is_unanswered(&error) {
                    self.claims.in_time = Some((limit / 2).max(1));
                }
                self.claims.deep = false;
                // What it had locked is there for the next one, whatever another claim has seen meanwhile.
                self.claims.more = true;
                if self.mode == Mode::UntilIdle {
                    self.fail(error);
                    return;
                }
                self.events.tell(|| Event::ClaimFailed { error: error.to_string() });
                tracing::warn!(%error, delay = ?self.claims.delay, "jobs could not be claimed; trying again");
                self.claims.not_before = Some(Instant::now() + self.claims.delay.mul_f64(0.5 + fastrand::f64() / 2.0));
                self.claims.delay = (self.claims.delay * 2).min(MAX_CLAIM_DELAY);
            }
        }
    }

    /// Where many of the jobs that were seen could not be taken, it is because of their queues, of which those just taken are
    /// held now: the next claim would walk over all of their jobs, so it waits until they are done.
    fn learn_of_queues(&mut self, found: Found) {
        self.queues.learn(found, self.claims.is_empty());
        if found.few() && found.side_by_side() > 0 && self.claims.not_before.is_none() {
            self.claims.awaits_queues = true;
            self.claims.not_before = Some(Instant::now() + QUEUES_PAUSE);
        }
    }

    /// Takes in jobs that this worker holds now, to start as soon as they can.
    pub(super) fn take_in(&mut self, jobs: Vec<ClaimedJob>) {
        for job in &jobs {
            self.slots.held.insert(job.id, job.token);
        }
        let since = Instant::now();
        let ahead_of_new = !self.buffer.waiting.is_empty();
        if !ahead_of_new {
            self.buffer.since = since;
        }
        self.buffer.bytes += jobs.iter().map(|job| job.payload.as_str().len()).sum::<usize>();
        let runs = in_runs(jobs, &self.registration.worker, since);
        if runs.iter().any(|run| !run.rest.is_empty()) {
            self.slots.rests_back_at.get_or_insert(since + RELEASE_AFTER);
        }
        self.buffer.waiting.extend(runs);
        if ahead_of_new {
            // What came later may be more urgent.
            let order = |waiting: &Waiting| (waiting.job.priority, waiting.job.run_at, waiting.job.id);
            self.buffer.waiting.make_contiguous().sort_by_key(order);
        }
    }

    /// Releases jobs in their last attempt that cannot start at once.
    fn release_last_attempts(&mut self) {
        let free = self.work.now.concurrency.saturating_sub(self.slots.running.len());
        let must_wait = |place: usize, job: &Job| place >= free && job.attempts >= job.max_attempts;
        if !self.buffer.waiting.iter().enumerate().any(|(place, waiting)| must_wait(place, &waiting.job)) {
            return;
        }
        let all = std::mem::take(&mut self.buffer.waiting);
        let (back, stay): (Vec<_>, Vec<_>) =
            all.into_iter().enumerate().partition(|(place, waiting)| must_wait(*place, &waiting.job));
        self.buffer.waiting = stay.into_iter().map(|(_, waiting)| waiting).collect();
        self.buffer.bytes -= back.iter().map(|(_, waiting)| waiting.bytes()).sum::<usize>();
        self.release_unstarted(back.into_iter().map(|(_, waiting)| waiting));
    }

    /// After a prefetch that found little, the next one waits.
    fn delay_refetch(&mut self, found: usize) {
        let refetch = self.options.prefetch.and_then(|prefetch| prefetch.refetch);
        let Some(refetch) = refetch.filter(|refetch| found <= refetch.threshold && found < self.claims.asked_for)
        else {
            return;
        };
        let delay = refetch.delay.mul_f64(0.5 + fastrand::f64());
        self.claims.not_before = Some(Instant::now() + delay);
        self.claims.abort_refetch_delay_at = Some(fastrand::u64(..=refetch.abort_at.max(1)).max(1));
        self.events.tell(|| Event::RefetchDelayed { found, delay });
    }

    /// Jobs were added. If a refetch is delayed, enough of them end the delay.
    pub(super) fn announced(&mut self, count: u64) {
        self.claims.announced = self.claims.announced.saturating_add(count);
        if self.claims.abort_refetch_delay_at.is_some_and(|limit| self.claims.announced >= limit) {
            self.claims.abort_refetch_delay_at = None;
            self.claims.not_before = None;
            let count = self.claims.announced;
            self.events.tell(|| Event::RefetchDelayAborted { count });
        }
        self.look();
    }

    /// Claims soon, even if a claim in flight finds nothing.
    pub(super) fn look(&mut self) {
        self.claims.more = true;
        self.claims.woken = true;
    }
}

/// What a claim for so many took.
fn found(claimed: &Claimed, limit: usize) -> Found {
    let queues: HashSet<&String, foldhash::fast::RandomState> =
        claimed.jobs.iter().filter_map(|job| job.queue.as_ref()).collect();
    let plain = claimed.jobs.iter().filter(|job| job.queue.is_none()).count();
    Found { plain, queues: queues.len(), limit, more: claimed.more }
}

/// Jobs of one serial queue as the run that they are.
fn in_runs(jobs: Vec<ClaimedJob>, worker: &Arc<WorkerId>, since: Instant) -> Vec<Waiting> {
    let mut runs: Vec<Waiting> = Vec::with_capacity(jobs.len());
    let mut of_queue: HashMap<String, usize, foldhash::fast::RandomState> = HashMap::default();
    for job in jobs {
        if let Some(queue) = &job.queue {
            if let Some(&run) = of_queue.get(queue) {
                runs[run].rest.push_back(job.into());
                continue;
            }
            of_queue.insert(queue.clone(), runs.len());
        }
        runs.push(Waiting { job: job.into(), worker: Arc::clone(worker), since, rest: VecDeque::new() });
    }
    runs
}
