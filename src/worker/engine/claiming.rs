//! When to ask for more jobs, and for how many.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::time::Instant;

use super::super::events::Event;
use super::jobs::{RELEASE_AFTER, Waiting};
use super::{Engine, Mode};
use crate::error::Result;
use crate::job::{Job, JobId};
use crate::storage::{ClaimRequest, Claimed, ClaimedJob, WorkerId, is_unanswered};

/// No claims while more results than this (plus what can run) wait to be written.
const MAX_UNWRITTEN: usize = 5_000;
/// The same for the bytes of errors and payloads in them.
const MAX_UNWRITTEN_BYTES: usize = 32 * 1024 * 1024;
/// The delays between tries to claim while the storage fails.
pub(super) const FIRST_CLAIM_DELAY: Duration = Duration::from_millis(100);
pub(super) const MAX_CLAIM_DELAY: Duration = Duration::from_secs(5);
/// The delays between claims that see jobs of which others hold the queues at this very moment.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(2);
/// How long a claim waits for queues of our own to be freed.
const QUEUES_PAUSE: Duration = Duration::from_millis(10);
/// A claim that has not been answered for this long never will be.
const CLAIM_TIMEOUT: Duration = Duration::from_secs(30);
/// The same for looking for jobs of a lost claim first, which reads the whole table.
pub(super) const DOUBTING_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a worker whose heartbeats are not answered waits before it looks again whether it may claim.
const LEASE_PAUSE: Duration = Duration::from_millis(100);
/// The most bytes of payloads that are claimed at once, and beyond which nothing more is claimed ahead.
const MAX_BYTES: usize = 32 * 1024 * 1024;
/// How long a claim whose answer was lost may still be on its way to the storage: as long as an operating system tries to send
/// what it has.
const DOUBT: Duration = Duration::from_secs(20 * 60);
/// For this long it is likely, and jobs that nobody knows of are looked for before each claim; then every so often.
const STRONG_DOUBT: Duration = Duration::from_secs(60);

/// From this many jobs claimed ahead, the next claim is sent while one is on its way.
const OVERLAP_FROM: usize = 500;
/// How many claims are on their way at once, at the most.
const MAX_CLAIMS: usize = 2;

/// The claims in flight.
#[derive(Default)]
pub(super) struct Claims {
    pub in_flight: FuturesUnordered<BoxFuture<'static, Answer>>,
    /// How many jobs they ask for.
    asked: usize,
    /// The number of the newest one.
    newest: u64,
    /// The last answer was as much as had been asked for.
    deep: bool,
    /// The next one passes nothing by.
    full_scan: bool,
    /// The one that releases what the worker does not know of, before it claims: no other may be on its way meanwhile, or
    /// what that one takes would be released too.
    doubting: Option<u64>,
    /// Jobs in their last attempt are at the head of the line. They are taken only when they can start, so nothing is claimed
    /// ahead.
    /// With the number of the claim that told.
    only_slots: Option<u64>,
    /// How many jobs may be claimed in the time that is given, after a claim that took too long.
    in_time: Option<usize>,
    /// The next one waits until results are written, which frees queues; but not for long.
    pub awaits_queues: bool,
}

impl Claims {
    pub fn is_empty(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Whether jobs that the worker does not know of are being released.
    pub fn is_doubting(&self) -> bool {
        self.doubting.is_some()
    }

    /// Forgets those in flight; tells whether there were any.
    pub fn abandon(&mut self) -> bool {
        let any = !self.is_empty();
        self.in_flight.clear();
        self.asked = 0;
        self.doubting = None;
        any
    }
}

/// The answer to a claim, and who asked for how many.
pub(super) struct Answer {
    number: u64,
    limit: usize,
    worker: Arc<WorkerId>,
    claimed: Result<Claimed>,
}

/// How many more jobs of some tasks.
type Limits = Vec<(String, usize)>;

impl Engine {
    pub(super) fn claim_if_useful(&mut self) {
        if self.registering.is_some()
            || self.handoff.is_pending()
            || !self.more
            || self.ending.is_some()
            || self.failure.is_some()
        {
            return;
        }
        let now = Instant::now();
        if self.claim_not_before.is_some_and(|earliest| now < earliest) {
            return;
        }
        if self.mode == Mode::UntilShutdown && self.lease.is_over() {
            // Nothing that is claimed now could be started: the heartbeats are not answered, whatever else is.
            self.claim_not_before = Some(now + LEASE_PAUSE);
            return;
        }
        let concurrency = self.options.concurrency;
        let prefetch = self.options.prefetch.filter(|_| !self.prefetch_rests).map_or(0, |prefetch| prefetch.size);
        let ahead = self.pace.ahead(concurrency);
        let full = concurrency + if self.claims.only_slots.is_some() { 0 } else { ahead.max(prefetch) };
        // While many fast jobs wait, two claims for half as many keep the storage busy, each while the other's jobs start.
        // Not where claims have to know of each other: with limits of tasks, a prefetch that was asked for, or a claim whose
        // answer was lost.
        let overlaps = concurrency > 1
            && ahead >= OVERLAP_FROM
            && self.claims.only_slots.is_none()
            && prefetch == 0
            && self.limited.is_empty()
            && self.claims.deep;
        let doubts = self.doubt_since.is_some_and(|since| now < since + STRONG_DOUBT || now >= self.next_doubt);
        let in_flight = self.claims.in_flight.len();
        let alone = doubts || self.claims.doubting.is_some();
        if in_flight >= if overlaps && !alone { MAX_CLAIMS } else { 1 } {
            return;
        }
        let have = self.running.len() + self.waiting.len() + self.claims.asked;
        // With slow jobs: whenever a slot is free. With fast ones: when half of what was claimed ahead is used up.
        let useful = (have < concurrency && in_flight == 0) || (have <= full / 2 && self.claims.only_slots.is_none());
        let free_slots = concurrency.saturating_sub(have);
        let heavy = self.waiting_bytes > MAX_BYTES && have >= concurrency;
        let behind = self.held.len() > full + MAX_UNWRITTEN || self.has_much_unwritten();
        if !useful || heavy || behind {
            return;
        }
        let limit = if overlaps { (full - have).min(full / 2) } else { full - have };
        let limit = self.claims.in_time.map_or(limit, |in_time| limit.min(in_time));
        let Some((tasks, limits)) = self.tasks_with_room() else {
            // Every task runs as many jobs as it may; the end of one of them looks again.
            self.more = false;
            return;
        };
        let in_doubt = doubts.then(|| self.held.keys().copied().collect::<Vec<JobId>>());
        if doubts {
            self.next_doubt = now + STRONG_DOUBT;
        }
        if self.doubt_since.is_some_and(|since| now >= since + DOUBT) {
            self.doubt_since = None;
        }
        let (line, worker) = (self.line.clone(), Arc::clone(&self.worker));
        let forbidden = self.options.forbidden_flags.clone();
        let now = self.client.clock().time();
        self.woken = false;
        self.announced = 0;
        self.asked_for = limit;
        self.events.tell(|| Event::Claiming { limit });
        self.claims.asked += limit;
        self.claims.newest += 1;
        let number = self.claims.newest;
        self.claims.doubting = doubts.then_some(number);
        self.claims.awaits_queues = false;
        let full_scan = std::mem::take(&mut self.claims.full_scan);
        let run_length = self.pace.run_length();
        self.claims.in_flight.push(Box::pin(async move {
            let storage = line.storage();
            let claimed = async {
                if let Some(held) = in_doubt {
                    let jobs = line.call(DOUBTING_TIMEOUT, storage.release_untracked(&worker, &held)).await?;
                    if jobs > 0 {
                        tracing::warn!(jobs, "released jobs of a claim whose answer was lost");
                    }
                }
                let claim = async {
                    let flags = forbidden.now().await?;
                    let request =
                        ClaimRequest::new(&worker, &tasks, limit).limits(&limits).forbidden_flags(&flags).now(now);
                    let request = request.run_length(run_length).full_scan(full_scan);
                    let request = request.max_bytes(MAX_BYTES).free_slots(free_slots);
                    storage.claim(&request).await
                };
                line.call(CLAIM_TIMEOUT, claim).await
            };
            let claimed = claimed.await;
            Answer { number, limit, worker, claimed }
        }));
    }

    pub(super) fn claimed(&mut self, Answer { number, limit, worker, claimed }: Answer) {
        self.claims.asked -= limit;
        if self.claims.doubting == Some(number) {
            self.claims.doubting = None;
            self.handoff.unknown_released();
        }
        match claimed {
            Ok(claimed) if worker != self.worker => {
                // Asked for under an identity that has been given up since: others have these jobs, or will.
                let since = Instant::now();
                self.release_unstarted(in_runs(claimed.jobs, &worker, since));
            }
            Ok(claimed) => {
                self.events.tell(|| Event::Claimed { jobs: claimed.jobs.len() });
                self.claim_delay = FIRST_CLAIM_DELAY;
                self.claim_not_before = None;
                let side_by_side = count_side_by_side(&claimed.jobs);
                self.claims.deep = side_by_side >= limit;
                self.claims.in_time =
                    self.claims.in_time.map(|in_time| in_time * 2).filter(|in_time| *in_time < MAX_UNWRITTEN);
                // That nothing is left can be told by the newest claim only: an older one did not look as late.
                self.more = self.woken || claimed.more || (self.more && number < self.claims.newest);
                if let Some(pause) = claimed.rescan_after {
                    if pause.is_zero() {
                        // The claim ended before it had seen everything, and the next one goes on from there.
                        self.more = true;
                    } else if self.mode == Mode::UntilIdle {
                        // A run that ends when idle has to be sure.
                        self.claims.full_scan = true;
                        self.more = true;
                    } else {
                        let time = Instant::now() + pause;
                        self.rescan_at = Some(self.rescan_at.map_or(time, |earlier| earlier.min(time)));
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
                    self.pause = FIRST_PAUSE;
                } else if claimed.more && claimed.jobs.is_empty() && claimed.rescan_after != Some(Duration::ZERO) {
                    // Everything in sight is in queues that others are taking at this moment.
                    self.claim_not_before = Some(Instant::now() + self.pause);
                    self.pause = (self.pause * 2).min(self.options.poll_interval);
                } else {
                    self.pause = FIRST_PAUSE;
                    self.delay_refetch(claimed.jobs.len());
                    self.learn_of_queues(side_by_side, limit, claimed.more);
                }
                self.take_in(claimed.jobs);
                if self.handoff.beside_claim {
                    self.handoff.beside_claim = !self.claims.is_empty();
                    self.release_last_attempts();
                }
                if self.ending.is_some() || self.registering.is_some() {
                    self.release_waiting();
                }
            }
            Err(error) if error.is_gone() => self.gone(error),
            Err(error) => {
                if !error.is_refusal() {
                    self.doubt_since = Some(Instant::now());
                }
                if error.took_too_long() || is_unanswered(&error) {
                    self.claims.in_time = Some((limit / 2).max(1));
                }
                self.claims.deep = false;
                // What it had locked is there for the next one, whatever another claim has seen meanwhile.
                self.more = true;
                if self.mode == Mode::UntilIdle {
                    self.fail(error);
                    return;
                }
                self.events.tell(|| Event::ClaimFailed { error: error.to_string() });
                tracing::warn!(%error, delay = ?self.claim_delay, "jobs could not be claimed; trying again");
                self.claim_not_before = Some(Instant::now() + self.claim_delay.mul_f64(0.5 + fastrand::f64() / 2.0));
                self.claim_delay = (self.claim_delay * 2).min(MAX_CLAIM_DELAY);
            }
        }
    }

    /// Whether the errors and payloads of unwritten results are so many bytes that no job may add to them.
    pub(super) fn has_much_unwritten(&self) -> bool {
        self.backlog.bytes() > MAX_UNWRITTEN_BYTES
    }

    /// Where many of the jobs that were seen could not be taken, it is because of their queues, of which those just taken are
    /// held now: the next claim would walk over all of their jobs, so it waits until they are done.
    fn learn_of_queues(&mut self, taken: usize, limit: usize, more: bool) {
        if more && taken > 0 && taken < limit / 4 * 3 && self.claim_not_before.is_none() {
            self.claims.awaits_queues = true;
            self.claim_not_before = Some(Instant::now() + QUEUES_PAUSE);
        }
    }

    /// The tasks that may run more jobs, and of those that have a limit, how many more. `None` if there are none.
    fn tasks_with_room(&self) -> Option<(Arc<[String]>, Limits)> {
        if self.limited.is_empty() {
            return Some((Arc::clone(&self.tasks), Vec::new()));
        }
        let mut limits = Vec::new();
        for (task, limit) in &self.limited {
            let running = self.started.values().filter(|started| started.job.task == *task).count();
            let waiting = self.waiting.iter().filter(|waiting| waiting.job.task == *task).count();
            limits.push((task.clone(), limit.saturating_sub(running + waiting)));
        }
        let full = |task: &String| limits.iter().any(|(limited, room)| limited == task && *room == 0);
        let tasks: Arc<[String]> = self.tasks.iter().filter(|task| !full(task)).cloned().collect();
        (!tasks.is_empty()).then_some((tasks, limits))
    }

    /// Takes in jobs that this worker holds now, to start as soon as they can.
    pub(super) fn take_in(&mut self, jobs: Vec<ClaimedJob>) {
        for job in &jobs {
            self.held.insert(job.id, job.token);
        }
        let since = Instant::now();
        let ahead_of_new = !self.waiting.is_empty();
        if !ahead_of_new {
            self.waiting_since = since;
        }
        self.waiting_bytes += jobs.iter().map(|job| job.payload.as_str().len()).sum::<usize>();
        let runs = in_runs(jobs, &self.worker, since);
        if runs.iter().any(|run| !run.rest.is_empty()) {
            self.rests_back_at.get_or_insert(since + RELEASE_AFTER);
        }
        self.waiting.extend(runs);
        if ahead_of_new {
            // What came later may be more urgent.
            let order = |waiting: &Waiting| (waiting.job.priority, waiting.job.run_at, waiting.job.id);
            self.waiting.make_contiguous().sort_by_key(order);
        }
    }

    /// Releases jobs in their last attempt that cannot start at once.
    fn release_last_attempts(&mut self) {
        let free = self.options.concurrency.saturating_sub(self.running.len());
        let must_wait = |place: usize, job: &Job| place >= free && job.attempts >= job.max_attempts;
        if !self.waiting.iter().enumerate().any(|(place, waiting)| must_wait(place, &waiting.job)) {
            return;
        }
        let all = std::mem::take(&mut self.waiting);
        let (back, stay): (Vec<_>, Vec<_>) =
            all.into_iter().enumerate().partition(|(place, waiting)| must_wait(*place, &waiting.job));
        self.waiting = stay.into_iter().map(|(_, waiting)| waiting).collect();
        self.waiting_bytes -= back.iter().map(|(_, waiting)| waiting.bytes()).sum::<usize>();
        self.release_unstarted(back.into_iter().map(|(_, waiting)| waiting));
    }

    /// After a prefetch that found little, the next one waits.
    fn delay_refetch(&mut self, found: usize) {
        let refetch = self.options.prefetch.and_then(|prefetch| prefetch.refetch);
        let Some(refetch) = refetch.filter(|refetch| found <= refetch.threshold && found < self.asked_for) else {
            return;
        };
        let delay = refetch.delay.mul_f64(0.5 + fastrand::f64());
        self.claim_not_before = Some(Instant::now() + delay);
        self.abort_refetch_delay_at = Some(fastrand::u64(..=refetch.abort_at.max(1)).max(1));
        self.events.tell(|| Event::RefetchDelayed { found, delay });
    }

    /// Jobs were added. If a refetch is delayed, enough of them end the delay.
    pub(super) fn announced(&mut self, count: u64) {
        self.announced = self.announced.saturating_add(count);
        if self.abort_refetch_delay_at.is_some_and(|limit| self.announced >= limit) {
            self.abort_refetch_delay_at = None;
            self.claim_not_before = None;
            let count = self.announced;
            self.events.tell(|| Event::RefetchDelayAborted { count });
        }
        self.look();
    }

    /// Claims soon, even if a claim in flight finds nothing.
    pub(super) fn look(&mut self) {
        self.more = true;
        self.woken = true;
    }
}

/// How many of these can run at once.
fn count_side_by_side(jobs: &[ClaimedJob]) -> usize {
    let queues: HashSet<&String, foldhash::fast::RandomState> =
        jobs.iter().filter_map(|job| job.queue.as_ref()).collect();
    jobs.iter().filter(|job| job.queue.is_none()).count() + queues.len()
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
