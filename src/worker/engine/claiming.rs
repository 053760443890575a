//! When to ask for more jobs, and for how many.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::super::events::Event;
use super::claims::Answer;
use super::decision::{DOUBT, Decision, Hold, MAX_BYTES, PROBABLY_IN_DOUBT, Plan, View};
use super::{Engine, Mode};
use crate::job::JobId;
use crate::storage::ClaimRequest;

/// The delays between tries to claim while the storage fails.
pub(super) const FIRST_CLAIM_DELAY: Duration = Duration::from_millis(100);
pub(super) const MAX_CLAIM_DELAY: Duration = Duration::from_secs(5);
/// The delays between claims that see jobs of which others hold the queues at this very moment.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(2);
/// A claim that has not been answered for this long never will be.
const CLAIM_TIMEOUT: Duration = Duration::from_secs(30);
/// The same for looking for jobs of a lost claim first, which reads the whole table.
pub(super) const RECOVERY_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a worker whose heartbeats are not answered waits before it looks again whether it may claim.
pub(super) const LEASE_PAUSE: Duration = Duration::from_millis(100);
/// How many more jobs of some tasks.
type Limits = Vec<(String, usize)>;

impl Engine {
    /// Asks for jobs, or says why not.
    pub(super) fn claim_if_useful(&mut self) {
        let now = Instant::now();
        let plan = match self.view(now).decide() {
            Decision::Ask(plan) => plan,
            Decision::Hold(hold) => {
                match hold {
                    Hold::HeartbeatsUnanswered => self.claims.not_before = Some(now + LEASE_PAUSE),
                    Hold::QueuesHeld => {
                        self.claims.not_before = Some(self.queues.begin_waiting(now));
                        self.claims.awaits_queues = true;
                    }
                    _ => {}
                }
                self.tell_hold(Some(hold));
                return;
            }
        };
        // Last, because it looks at everything that runs.
        let Some((tasks, limits)) = self.tasks_with_room() else {
            // The end of a job of one of them looks again.
            self.claims.more = false;
            self.tell_hold(Some(Hold::TasksFull));
            return;
        };
        self.tell_hold(None);
        self.ask(&plan, tasks, limits, now);
    }

    fn view(&self, now: Instant) -> View {
        let (claims, concurrency) = (&self.claims, self.work.now.concurrency);
        let prefetch = self.options.prefetch.filter(|_| !self.buffer.prefetch_rests);
        View {
            now,
            ending: self.ending.is_some() || self.failure.is_some(),
            registering: self.registration.registering.is_some(),
            releasing: self.handoff.is_pending(),
            more: claims.more,
            not_before: claims.not_before,
            lease_over: self.mode == Mode::UntilShutdown && self.registration.lease.is_over(),
            concurrency,
            have: self.slots.running.len() + self.buffer.waiting.len() + claims.asked,
            in_flight: claims.in_flight.len(),
            ahead: claims.pace.ahead(concurrency),
            prefetch: prefetch.map_or(0, |prefetch| prefetch.size),
            only_slots: claims.only_slots.is_some(),
            deep: claims.deep,
            limited: !self.work.now.limited.is_empty(),
            recovering: claims.recovering.is_some(),
            doubt_since: claims.doubt_since,
            next_doubt: claims.next_doubt,
            bytes: self.buffer.bytes,
            held: self.slots.held.len(),
            many_bytes_unwritten: self.results.are_many_bytes(),
            in_time: claims.in_time,
            queues: self.queues.about(),
            held_queues: self.queues.held() + claims.asked,
            queues_awaited: self.queues.wait().is_some_and(|until| now >= until),
        }
    }

    /// How many more jobs a task may run, if it has a limit.
    fn room_of(&self, task: &str) -> Option<usize> {
        let limited = self.work.now.limited.iter().find(|(limited, _)| limited == task);
        limited.map(|(_, limit)| limit.saturating_sub(self.slots.running_of(task) + self.buffer.waiting_of(task)))
    }

    /// The tasks that may run more jobs, and of those that have a limit, how many more; `None` if each of them is full.
    fn tasks_with_room(&self) -> Option<(Arc<[String]>, Limits)> {
        let work = &self.work.now;
        if work.limited.is_empty() {
            return Some((Arc::clone(&work.names), Vec::new()));
        }
        let rooms = work.limited.iter().filter_map(|(task, _)| Some((task.clone(), self.room_of(task)?)));
        let limits: Limits = rooms.collect();
        let full = |task: &String| limits.iter().any(|(limited, room)| limited == task && *room == 0);
        let tasks: Arc<[String]> = work.names.iter().filter(|task| !full(task)).cloned().collect();
        (!tasks.is_empty()).then_some((tasks, limits))
    }

    /// Tells why nothing is asked for, when that has changed.
    fn tell_hold(&mut self, hold: Option<Hold>) {
        if self.claims.hold != hold {
            self.claims.hold = hold;
            self.status.holds(hold);
            if let Some(reason) = hold {
                self.events.tell(|| Event::Holding { reason });
            }
        }
    }

    fn ask(&mut self, plan: &Plan, tasks: Arc<[String]>, limits: Limits, now: Instant) {
        let Plan { limit, free_slots, recovers } = *plan;
        let in_doubt = recovers.then(|| self.slots.held.keys().copied().collect::<Vec<JobId>>());
        if recovers {
            self.claims.next_doubt = now + PROBABLY_IN_DOUBT;
        }
        if self.claims.doubt_since.is_some_and(|since| now >= since + DOUBT) {
            self.claims.doubt_since = None;
        }
        let (calls, worker) = (self.calls.clone(), Arc::clone(&self.registration.worker));
        let (forbidden, status) = (self.options.forbidden_flags.clone(), self.status.clone());
        let now = self.client.clock().time();
        self.claims.woken = false;
        self.claims.announced = 0;
        self.claims.asked_for = limit;
        self.events.tell(|| Event::Claiming { limit });
        self.claims.asked += limit;
        self.claims.newest += 1;
        let number = self.claims.newest;
        self.claims.recovering = recovers.then_some(number);
        self.claims.awaits_queues = false;
        self.queues.asked();
        let full_scan = std::mem::take(&mut self.claims.full_scan);
        let run_length = self.claims.pace.run_length();
        self.claims.in_flight.push(Box::pin(async move {
            let storage = calls.storage();
            let claimed = async {
                if let Some(held) = in_doubt {
                    let jobs = calls.call(RECOVERY_TIMEOUT, storage.release_untracked(&worker, &held)).await?;
                    if jobs > 0 {
                        tracing::warn!(jobs, "released jobs of a claim whose answer was lost");
                    }
                }
                let claim = async {
                    let flags = forbidden.now().await?;
                    if forbidden.is_asked() {
                        status.forbids(&flags);
                    }
                    let request =
                        ClaimRequest::new(&worker, &tasks, limit).limits(&limits).forbidden_flags(&flags).now(now);
                    let request = request.run_length(run_length).full_scan(full_scan);
                    let request = request.max_bytes(MAX_BYTES).free_slots(free_slots);
                    storage.claim(&request).await
                };
                calls.call(CLAIM_TIMEOUT, claim).await
            };
            let claimed = claimed.await;
            Answer { number, limit, worker, claimed }
        }));
    }
}
