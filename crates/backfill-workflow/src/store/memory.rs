//! Workflows in memory: for tests, and for programs whose workflows may end with them. The smallest correct storage.

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
use backfill::client::Within;
use chrono::Utc;
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::sync::{broadcast, watch};

use super::{
    Beat, Change, Checkpoint, Checkpointed, Claim, Claimed, Count, Created, Effect, EventRow, Execution, Existing,
    Expired, Export, Filter, Finish, Fork, Held, INTERNAL_QUEUE, MessageRow, Moved, Ms, NewMessage, NewRun, QueueRow,
    Rate, Run, ScheduleChange, ScheduleRow, Status, StepRow, Store, StoreTransaction, StreamRow, Transition,
    VersionRow,
};
use crate::codec;
use crate::error::Result;

/// Workflows in memory. Clones are the same storage.
#[derive(Clone)]
pub struct MemoryStore {
    state: Arc<Mutex<State>>,
    news: broadcast::Sender<Change>,
    /// A clock that a test moves. Without it, the machine's.
    clock: Option<Arc<watch::Sender<Ms>>>,
}

#[derive(Default)]
struct State {
    runs: BTreeMap<String, Entry>,
    queues: BTreeMap<String, QueueRow>,
    schedules: BTreeMap<String, ScheduleRow>,
    versions: Vec<VersionRow>,
    /// Until when executors live.
    leases: HashMap<String, Ms>,
    /// Counts rows, for an order of those of one millisecond.
    counter: u64,
}

struct Entry {
    run: Run,
    order: u64,
    steps: BTreeMap<i32, StepRow>,
    messages: Vec<MessageRow>,
    events: Vec<EventRow>,
    streams: Vec<StreamRow>,
}

impl Entry {
    fn existing(&self) -> Existing {
        Existing { status: self.run.status, name: self.run.name.clone(), owner: self.run.owner.clone() }
    }

    /// Frees what a workflow holds that has ended.
    fn end(&mut self, status: Status, now: Ms) {
        let run = &mut self.run;
        run.status = status;
        run.completed_at = Some(now);
        run.updated_at = now;
        run.owner = None;
        run.deduplication = None;
    }

    /// Leaves its queue, as what was cancelled and what was begun too often does.
    fn leave(&mut self, status: Status, now: Ms) {
        self.end(status, now);
        self.run.queue = None;
        self.run.started_at = None;
    }

    fn append(&mut self, key: &str, value: &super::Encoded, step: i32) -> bool {
        let last = self.streams.iter().filter(|row| row.key == key).max_by_key(|row| row.offset);
        if last.is_some_and(|row| codec::is_closed(&row.value.text)) {
            return false;
        }
        let offset = last.map_or(0, |row| row.offset + 1);
        self.streams.push(StreamRow { key: key.to_owned(), offset, value: value.clone(), step });
        true
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    /// An empty storage.
    #[must_use]
    pub fn new() -> Self {
        Self { state: Arc::default(), news: broadcast::channel(4096).0, clock: None }
    }

    /// An empty storage whose clock stands still until [`advance`](Self::advance) moves it.
    #[must_use]
    pub fn with_still_clock() -> Self {
        Self { clock: Some(Arc::new(watch::Sender::new(Utc::now().timestamp_millis()))), ..Self::new() }
    }

    /// Moves the clock on. A clock that does not stand still stays as it is.
    pub fn advance(&self, by: std::time::Duration) {
        if let Some(clock) = &self.clock {
            let by = Ms::try_from(by.as_millis()).unwrap_or(Ms::MAX);
            clock.send_modify(|now| *now = now.saturating_add(by));
        }
    }

    fn time(&self) -> Ms {
        self.clock.as_ref().map_or_else(|| Utc::now().timestamp_millis(), |clock| *clock.borrow())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, change: Change) {
        // Nobody may be listening.
        let _ = self.news.send(change);
    }

    fn moved(&self, moved: &[Moved], steered: bool) {
        for one in moved {
            if steered {
                self.tell(Change::Steered(one.id.clone()));
            }
            if let Some(queue) = &one.queue {
                self.tell(Change::Queue(queue.clone()));
            }
        }
    }

    fn record(&self, state: &mut State, checkpoint: &Checkpoint) -> Checkpointed {
        let now = self.time();
        let Some(entry) = state.runs.get_mut(&checkpoint.run) else { return Checkpointed::Refused(None) };
        if entry.run.status != Status::Pending || entry.run.owner.as_ref() != Some(&checkpoint.owner) {
            return Checkpointed::Refused(Some(entry.existing()));
        }
        if let Some(step) = entry.steps.get(&checkpoint.step.number) {
            return Checkpointed::Recorded(step.clone());
        }
        let mut step = checkpoint.step.clone();
        let number = step.number;
        let mut answer = Checkpointed::Written;
        match &checkpoint.effect {
            None => {}
            Some(Effect::Send(message)) => {
                let sent = self.deliver(state, message);
                if !sent {
                    return Checkpointed::NoDestination;
                }
            }
            Some(Effect::Receive { topic }) => {
                let oldest =
                    entry.messages.iter_mut().find(|row| !row.consumed && row.topic.as_deref() == Some(topic.as_str()));
                let Some(row) = oldest else { return Checkpointed::NoMessage };
                row.consumed = true;
                row.consumed_by = Some(number);
                step.output = Some(row.body.text.clone());
                step.format.clone_from(&row.body.format);
                answer = Checkpointed::Received(row.body.clone());
            }
            Some(Effect::Event { key, value }) => {
                entry.events.push(EventRow { step: number, key: key.clone(), value: value.clone() });
                self.tell(Change::Event(format!("{}::{key}", checkpoint.run)));
            }
            Some(Effect::Append { key, value }) => {
                if !entry.append(key, value, number) {
                    return Checkpointed::StreamClosed;
                }
                self.tell(Change::Stream(format!("{}::{key}", checkpoint.run)));
            }
            Some(Effect::Child(child)) => {
                let created = self.store(state, child);
                if !created.is_kept(&child.name) {
                    return Checkpointed::Child(created);
                }
                answer = Checkpointed::Child(created);
            }
            #[cfg(feature = "postgres")]
            Some(Effect::Jobs(..)) => return Checkpointed::Refused(None),
        }
        if step.completed_at.is_none() {
            step.completed_at = Some(now);
        }
        if let Some(entry) = state.runs.get_mut(&checkpoint.run) {
            entry.steps.insert(number, step);
        }
        answer
    }

    fn deliver(&self, state: &mut State, message: &NewMessage) -> bool {
        let now = self.time();
        let known = state.runs.values().any(|entry| entry.messages.iter().any(|row| row.id == message.id));
        let Some(entry) = state.runs.get_mut(&message.destination) else { return false };
        if !known {
            entry.messages.push(MessageRow {
                id: message.id.clone(),
                topic: Some(message.topic.clone()),
                body: message.body.clone(),
                created_at: now,
                consumed: false,
                consumed_by: None,
            });
            self.tell(Change::Message(format!("{}::{}", message.destination, message.topic)));
        }
        true
    }

    fn store(&self, state: &mut State, new: &NewRun) -> Created {
        let now = self.time();
        if let Some(entry) = state.runs.get_mut(&new.id) {
            let token = new.start.as_ref().map(|start| &start.owner);
            if entry.run.creator.as_deref() == Some(&new.creator) && entry.run.owner.as_ref() == token {
                return Created::New { deadline: entry.run.deadline };
            }
            entry.run.updated_at = now;
            return Created::Exists(entry.existing());
        }
        if let (Some(queue), Some(key)) = (&new.queue, &new.deduplication) {
            let holder = state
                .runs
                .values_mut()
                .find(|entry| entry.run.queue.as_ref() == Some(queue) && entry.run.deduplication.as_ref() == Some(key));
            if let Some(holder) = holder {
                let run = &mut holder.run;
                if let (Some(_), Some(delay), Status::Delayed) = (&new.debounce, new.delay, run.status)
                    && run.debounced
                    && run.name == new.name
                {
                    let until = now + delay;
                    run.delay_until = Some(run.debounce_deadline.map_or(until, |deadline| until.min(deadline)));
                    run.input = Some(new.input.clone());
                    run.format = Some(codec::PORTABLE.to_owned());
                    run.updated_at = now;
                    return Created::Moved { id: run.id.clone() };
                }
                return Created::Duplicate { holder: run.id.clone() };
            }
        }
        let run = new_row(new, now);
        let deadline = run.deadline;
        let queue = run.queue.clone().filter(|_| run.status == Status::Enqueued);
        state.counter += 1;
        let order = state.counter;
        let entry =
            Entry { run, order, steps: BTreeMap::new(), messages: Vec::new(), events: Vec::new(), streams: Vec::new() };
        state.runs.insert(new.id.clone(), entry);
        if let Some(queue) = queue {
            self.tell(Change::Queue(queue));
        }
        Created::New { deadline }
    }
}

/// The row of a new workflow.
fn new_row(new: &NewRun, now: Ms) -> Run {
    let status = new.status();
    let (executor, owner) = new.start.clone().map(|Execution { executor, owner }| (executor, owner)).unzip();
    Run {
        id: new.id.clone(),
        status,
        name: new.name.clone(),
        input: Some(new.input.clone()),
        output: None,
        error: None,
        format: Some(codec::PORTABLE.to_owned()),
        executor,
        owner,
        creator: Some(new.creator.clone()),
        version: new.version.clone(),
        application: new.application.clone(),
        queue: new.queue.clone(),
        partition: new.partition.clone(),
        priority: new.priority,
        deduplication: new.deduplication.clone(),
        attempts: i64::from(status == Status::Pending),
        parent: new.parent.clone(),
        schedule: new.schedule.clone(),
        timeout: new.timeout,
        deadline: new
            .deadline
            .or_else(|| new.timeout.filter(|_| status == Status::Pending).map(|timeout| now + timeout)),
        delay_until: new.delay.map(|delay| now + delay),
        created_at: now,
        updated_at: now,
        started_at: (status == Status::Pending).then_some(now),
        completed_at: None,
        forked_from: None,
        was_forked_from: false,
        rate_limited: false,
        debounced: new.debounce.is_some(),
        debounce_deadline: new.debounce.and_then(|debounce| debounce.at_most).map(|at_most| now + at_most),
        user: new.user.clone(),
        role: new.role.clone(),
        roles: new.roles.clone(),
        class: new.class.clone(),
        config: new.config.clone(),
        attributes: new.attributes.clone(),
    }
}

/// How many more may start.
fn room(
    state: &State,
    claim: &Claim<'_>,
    partition: Option<&str>,
    most: Option<i64>,
    rate: Option<Rate>,
    now: Ms,
) -> i64 {
    let of_queue = |run: &Run| {
        run.queue.as_deref() == Some(claim.queue)
            && partition.is_none_or(|partition| run.partition.as_deref() == Some(partition))
    };
    let count = |is: &dyn Fn(&Run) -> bool| {
        i64::try_from(state.runs.values().filter(|entry| of_queue(&entry.run) && is(&entry.run)).count())
            .unwrap_or(i64::MAX)
    };
    let mut room = claim.limit;
    if let Some(most) = most {
        room = room.min(most - count(&|run| run.status == Status::Pending));
    }
    if let Some(rate) = rate {
        let started = count(&|run| {
            run.rate_limited
                && !matches!(run.status, Status::Enqueued | Status::Delayed)
                && run.started_at.is_some_and(|at| at > now - rate.period)
        });
        room = room.min(rate.limit - started);
    }
    room
}

#[async_trait]
impl Store for MemoryStore {
    fn name(&self) -> &'static str {
        "memory"
    }

    async fn migrate(&self) -> Result<()> {
        Ok(())
    }

    async fn now(&self) -> Result<Ms> {
        Ok(self.time())
    }

    fn clock(&self) -> Option<Ms> {
        Some(self.time())
    }

    async fn sleep_until(&self, until: Ms, now: Ms) {
        if let Some(clock) = &self.clock {
            // It ends when the clock does.
            drop(clock.subscribe().wait_for(|now| *now >= until).await);
        } else {
            let left = u64::try_from(until.saturating_sub(now)).unwrap_or(0);
            tokio::time::sleep(std::time::Duration::from_millis(left)).await;
        }
    }

    async fn create(&self, runs: &[NewRun]) -> Result<Vec<Created>> {
        let mut state = self.state();
        Ok(runs.iter().map(|run| self.store(&mut state, run)).collect())
    }

    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    async fn create_within(&self, _: Within<'_>, _: &NewRun) -> Result<Created> {
        Err(crate::error::Error::Unsupported { storage: "memory", what: "transactions" })
    }

    async fn claim(&self, claim: &Claim<'_>) -> Result<Vec<Claimed>> {
        let now = self.time();
        let mut state = self.state();
        let mine = state.versions.iter().filter(|version| version.application.as_deref() == claim.application);
        let latest = mine.max_by_key(|version| version.timestamp);
        let is_latest = latest.is_none_or(|version| version.name == claim.version);
        let mut most = room(&state, claim, None, claim.concurrency, claim.rate, now);
        if claim.partition.is_some() {
            let part = room(&state, claim, claim.partition, claim.partition_concurrency, claim.partition_rate, now);
            most = most.min(part);
        }
        let mut waiting: Vec<(i32, Ms, u64, String)> = state
            .runs
            .values()
            .filter(|Entry { run, .. }| {
                run.status == Status::Enqueued
                    && run.queue.as_deref() == Some(claim.queue)
                    && claim.partition.is_none_or(|partition| run.partition.as_deref() == Some(partition))
                    && run.version.as_deref().map_or(is_latest, |version| version == claim.version)
                    && run.application.as_deref().is_none_or(|name| claim.application == Some(name))
                    && claim.names.contains(&run.name)
            })
            .map(|entry| (entry.run.priority, entry.run.created_at, entry.order, entry.run.id.clone()))
            .collect();
        waiting.sort_unstable();
        waiting.truncate(usize::try_from(most).unwrap_or(0));
        let mut claimed = Vec::with_capacity(waiting.len());
        for (.., id) in waiting {
            let Some(entry) = state.runs.get_mut(&id) else { continue };
            let run = &mut entry.run;
            run.status = Status::Pending;
            run.executor = Some(claim.executor.to_owned());
            run.owner = Some(crate::id::token());
            run.version = Some(claim.version.to_owned());
            run.application = run.application.take().or_else(|| claim.application.map(str::to_owned));
            run.started_at = Some(now);
            run.updated_at = now;
            run.attempts += 1;
            run.rate_limited = claim.rate.is_some() || claim.partition_rate.is_some();
            let timeout = run.timeout.map(|timeout| now + timeout);
            run.deadline = [run.deadline, timeout].into_iter().flatten().min();
            claimed.push(Claimed { run: run.clone(), steps: entry.steps.values().cloned().collect() });
        }
        Ok(claimed)
    }

    async fn partitions(&self, queue: &str) -> Result<Vec<String>> {
        let state = self.state();
        let mut names: Vec<String> = state
            .runs
            .values()
            .filter(|entry| entry.run.status == Status::Enqueued && entry.run.queue.as_deref() == Some(queue))
            .filter_map(|entry| entry.run.partition.clone())
            .collect();
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    async fn checkpoint(&self, checkpoints: &[Checkpoint]) -> Result<Vec<Checkpointed>> {
        let mut state = self.state();
        Ok(checkpoints.iter().map(|checkpoint| self.record(&mut state, checkpoint)).collect())
    }

    async fn begin(&self) -> Result<Box<dyn StoreTransaction>> {
        Ok(Box::new(NoTransaction { store: self.clone(), nothing: () }))
    }

    async fn finish(&self, finishes: &[Finish]) -> Result<Vec<bool>> {
        let now = self.time();
        let mut state = self.state();
        let mut answers = Vec::with_capacity(finishes.len());
        for finish in finishes {
            let entry = state
                .runs
                .get_mut(&finish.run)
                .filter(|entry| entry.run.status == Status::Pending && entry.run.owner.as_ref() == Some(&finish.owner));
            answers.push(entry.is_some());
            let Some(entry) = entry else { continue };
            let queue = entry.run.queue.clone();
            if finish.status == Status::Exhausted {
                entry.leave(finish.status, now);
            } else {
                entry.end(finish.status, now);
                entry.run.output.clone_from(&finish.output);
                entry.run.error.clone_from(&finish.error);
                entry.run.format = Some(codec::PORTABLE.to_owned());
            }
            self.tell(Change::Finished(finish.run.clone()));
            if let Some(queue) = queue {
                self.tell(Change::Queue(queue));
            }
        }
        Ok(answers)
    }

    async fn beat(&self, executor: &str, lease: Ms, live: &[Held]) -> Result<Beat> {
        let until = self.time() + lease;
        let mut state = self.state();
        state.leases.insert(executor.to_owned(), until);
        let lost = live.iter().filter_map(|held| match state.runs.get(&held.run) {
            None => Some((held.clone(), None)),
            Some(Entry { run, .. }) => (run.status != Status::Pending || run.owner.as_ref() != Some(&held.owner))
                .then(|| (held.clone(), Some(run.status))),
        });
        Ok(Beat { lost: lost.collect() })
    }

    async fn retire(&self, executor: &str) -> Result<()> {
        self.state().leases.insert(executor.to_owned(), Ms::MIN);
        Ok(())
    }

    async fn transition(&self, transition: &Transition) -> Result<Vec<Moved>> {
        let now = self.time();
        let mut moved = Vec::new();
        let mut state = self.state();
        let State { runs, leases, .. } = &mut *state;
        for entry in runs.values_mut() {
            let run = &mut entry.run;
            let owner = run.owner.clone();
            let open = matches!(run.status, Status::Pending | Status::Enqueued | Status::Delayed);
            let queue = match transition {
                Transition::Cancel { ids } if ids.contains(&run.id) && (open || run.status == Status::Exhausted) => {
                    entry.leave(Status::Cancelled, now);
                    None
                }
                Transition::CancelBefore(before) if open && run.created_at < *before => {
                    entry.leave(Status::Cancelled, now);
                    None
                }
                Transition::Expire if open && run.deadline.is_some_and(|deadline| deadline <= now) => {
                    entry.leave(Status::Cancelled, now);
                    None
                }
                Transition::Resume { ids, queue }
                    if ids.contains(&run.id) && !matches!(run.status, Status::Success | Status::Error) =>
                {
                    run.status = Status::Enqueued;
                    run.queue = Some(queue.clone());
                    run.attempts = 0;
                    run.deadline = None;
                    run.deduplication = None;
                    run.started_at = None;
                    run.completed_at = None;
                    run.delay_until = None;
                    run.owner = None;
                    run.debounced = false;
                    Some(queue.clone())
                }
                Transition::CancelHeld { held }
                    if run.status == Status::Pending
                        && held.iter().any(|held| held.run == run.id && run.owner.as_ref() == Some(&held.owner)) =>
                {
                    entry.leave(Status::Cancelled, now);
                    None
                }
                Transition::RecoverLapsed { except, retired }
                    if run.status == Status::Pending
                        && run.executor.as_ref() != Some(except)
                        && run
                            .executor
                            .as_ref()
                            .and_then(|name| leases.get(name))
                            .is_some_and(|until| *until < now && (!retired || *until == Ms::MIN)) =>
                {
                    Some(recover(run))
                }
                Transition::Reconcile { executor, owners, before }
                    if run.status == Status::Pending
                        && run.executor.as_ref() == Some(executor)
                        && run.started_at.is_some_and(|at| at < *before)
                        && run.owner.as_ref().is_some_and(|owner| !owners.contains(owner)) =>
                {
                    Some(recover(run))
                }
                Transition::Recover { executors, version }
                    if run.status == Status::Pending
                        && run.executor.as_ref().is_some_and(|name| executors.contains(name))
                        && version.as_ref().is_none_or(|version| run.version.as_ref() == Some(version)) =>
                {
                    Some(recover(run))
                }
                Transition::Return { held }
                    if run.status == Status::Pending
                        && held.iter().any(|held| held.run == run.id && run.owner.as_ref() == Some(&held.owner)) =>
                {
                    Some(recover(run))
                }
                Transition::Release if run.status == Status::Delayed && run.delay_until.is_none_or(|at| at <= now) => {
                    run.status = Status::Enqueued;
                    if run.debounced {
                        run.deduplication = None;
                    }
                    run.queue.clone()
                }
                Transition::Delay { id, until } if *id == run.id && run.status == Status::Delayed => {
                    run.delay_until = Some(*until);
                    None
                }
                _ => continue,
            };
            entry.run.updated_at = now;
            moved.push(Moved { id: entry.run.id.clone(), owner, queue });
        }
        drop(state);
        self.moved(&moved, !matches!(transition, Transition::Release | Transition::Delay { .. }));
        Ok(moved)
    }

    async fn fork(&self, fork: &Fork) -> Result<bool> {
        let now = self.time();
        let mut state = self.state();
        state.counter += 1;
        let order = state.counter;
        let Some(source) = state.runs.get_mut(&fork.source) else { return Ok(false) };
        source.run.was_forked_from = true;
        let run = Run {
            id: fork.id.clone(),
            status: Status::Enqueued,
            output: None,
            error: None,
            executor: None,
            owner: None,
            creator: Some(fork.id.clone()),
            version: fork.version.clone().or_else(|| source.run.version.clone()),
            queue: Some(fork.queue.clone()),
            partition: fork.partition.clone(),
            priority: 0,
            deduplication: None,
            attempts: 0,
            parent: None,
            schedule: None,
            deadline: None,
            delay_until: None,
            created_at: now,
            updated_at: now,
            started_at: None,
            completed_at: None,
            forked_from: Some(fork.source.clone()),
            was_forked_from: false,
            rate_limited: false,
            debounced: false,
            debounce_deadline: None,
            ..source.run.clone()
        };
        let below = |step: i32| step < fork.from;
        let messages = source.messages.iter().map(|row| {
            let consumed = row.consumed && row.consumed_by.is_some_and(below);
            let consumed_by = row.consumed_by.filter(|_| consumed);
            MessageRow { id: crate::id::fresh(), consumed, consumed_by, ..row.clone() }
        });
        let entry = Entry {
            run,
            order,
            steps: source.steps.range(..fork.from).map(|(number, step)| (*number, step.clone())).collect(),
            messages: messages.collect(),
            events: source.events.iter().filter(|row| below(row.step)).cloned().collect(),
            streams: source.streams.iter().filter(|row| below(row.step)).cloned().collect(),
        };
        state.runs.insert(fork.id.clone(), entry);
        self.tell(Change::Queue(fork.queue.clone()));
        Ok(true)
    }

    async fn send(&self, message: &NewMessage) -> Result<bool> {
        let mut state = self.state();
        Ok(self.deliver(&mut state, message))
    }

    async fn delete(&self, ids: &[String]) -> Result<Vec<String>> {
        let mut state = self.state();
        let gone: Vec<String> = ids.iter().filter(|id| state.runs.remove(*id).is_some()).cloned().collect();
        drop(state);
        for id in &gone {
            self.tell(Change::Steered(id.clone()));
        }
        Ok(gone)
    }

    async fn delete_expired(&self, expired: &Expired) -> Result<u64> {
        let mut state = self.state();
        let mut ended: Vec<(Ms, String)> = state
            .runs
            .values()
            .filter(|entry| entry.run.status.is_final())
            .filter_map(|entry| Some((entry.run.completed_at?, entry.run.id.clone())))
            .collect();
        ended.sort_unstable();
        let surplus = expired.keep_newest.map(|keep| {
            let keep = usize::try_from(keep).unwrap_or(0);
            ended.len().saturating_sub(keep)
        });
        let old = ended.into_iter().enumerate().filter(|(place, (at, _))| {
            surplus.is_some_and(|surplus| *place < surplus)
                || expired.completed_before.is_some_and(|before| *at < before)
        });
        let old: Vec<String> =
            old.map(|(_, (_, id))| id).take(usize::try_from(expired.batch).unwrap_or(usize::MAX)).collect();
        for id in &old {
            state.runs.remove(id);
        }
        Ok(old.len() as u64)
    }

    async fn import(&self, exports: &[Export]) -> Result<Vec<String>> {
        let mut state = self.state();
        let mut known = Vec::new();
        for export in exports {
            if state.runs.contains_key(&export.run.id) {
                known.push(export.run.id.clone());
                continue;
            }
            state.counter += 1;
            let entry = Entry {
                run: export.run.clone(),
                order: state.counter,
                steps: export.steps.iter().map(|step| (step.number, step.clone())).collect(),
                messages: export.messages.clone(),
                events: export.events.clone(),
                streams: export.streams.clone(),
            };
            state.runs.insert(export.run.id.clone(), entry);
        }
        Ok(known)
    }

    async fn runs(&self, filter: &Filter) -> Result<Vec<Run>> {
        let state = self.state();
        let mut found: Vec<&Entry> = if filter.ids.is_empty() {
            state.runs.values().filter(|entry| filter.matches(&entry.run)).collect()
        } else {
            let named = filter.ids.iter().filter_map(|id| state.runs.get(id));
            named.filter(|entry| filter.matches(&entry.run)).collect()
        };
        found.sort_by_key(|entry| (entry.run.created_at, entry.order));
        if filter.newest_first {
            found.reverse();
        }
        let most = filter.limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(0));
        let first = usize::try_from(filter.offset).unwrap_or(0);
        let rows = found.into_iter().skip(first).take(most).map(|entry| {
            let mut run = entry.run.clone();
            if !filter.load_input {
                run.input = None;
            }
            if !filter.load_output {
                run.output = None;
                run.error = None;
            }
            run
        });
        Ok(rows.collect())
    }

    async fn counts(&self, filter: &Filter) -> Result<Vec<Count>> {
        let state = self.state();
        let mut counts: BTreeMap<(&str, &str, Option<&str>), (Status, i64)> = BTreeMap::new();
        for Entry { run, .. } in state.runs.values().filter(|entry| filter.matches(&entry.run)) {
            let key = (run.status.name(), run.name.as_str(), run.queue.as_deref());
            counts.entry(key).or_insert((run.status, 0)).1 += 1;
        }
        let rows = counts.into_iter().map(|((_, name, queue), (status, count))| Count {
            status,
            name: name.to_owned(),
            queue: queue.map(str::to_owned),
            count,
        });
        Ok(rows.collect())
    }

    async fn has_message(&self, run: &str, topic: &str) -> Result<bool> {
        let state = self.state();
        let waits = |row: &MessageRow| !row.consumed && row.topic.as_deref() == Some(topic);
        Ok(state.runs.get(run).is_some_and(|entry| entry.messages.iter().any(waits)))
    }

    async fn steps(&self, run: &str) -> Result<Vec<StepRow>> {
        Ok(self.state().runs.get(run).map(|entry| entry.steps.values().cloned().collect()).unwrap_or_default())
    }

    async fn messages(&self, run: &str) -> Result<Vec<MessageRow>> {
        Ok(self.state().runs.get(run).map(|entry| entry.messages.clone()).unwrap_or_default())
    }

    async fn event(&self, run: &str, key: &str) -> Result<Option<super::Encoded>> {
        let state = self.state();
        let last = state.runs.get(run).and_then(|entry| entry.events.iter().rev().find(|row| row.key == key));
        Ok(last.map(|row| row.value.clone()))
    }

    async fn events(&self, run: &str) -> Result<Vec<EventRow>> {
        Ok(self.state().runs.get(run).map(|entry| entry.events.clone()).unwrap_or_default())
    }

    async fn stream(&self, run: &str, key: Option<&str>, from: i32) -> Result<Vec<StreamRow>> {
        let state = self.state();
        let Some(entry) = state.runs.get(run) else { return Ok(Vec::new()) };
        let meant = entry.streams.iter().filter(|row| key.is_none_or(|key| row.key == key) && row.offset >= from);
        let mut rows: Vec<StreamRow> = meant.cloned().collect();
        rows.sort_by(|a, b| (&a.key, a.offset).cmp(&(&b.key, b.offset)));
        Ok(rows)
    }

    fn changes(&self) -> BoxStream<'static, Change> {
        let news = self.news.subscribe();
        futures::stream::unfold(news, |mut news| async move {
            match news.recv().await {
                Ok(change) => Some((change, news)),
                Err(broadcast::error::RecvError::Lagged(_)) => Some((Change::Anything, news)),
                Err(broadcast::error::RecvError::Closed) => None,
            }
        })
        .boxed()
    }

    async fn queues(&self) -> Result<Vec<QueueRow>> {
        Ok(self.state().queues.values().cloned().collect())
    }

    async fn put_queue(&self, queue: &QueueRow, only_new: bool) -> Result<()> {
        let mut state = self.state();
        if !only_new || !state.queues.contains_key(&queue.name) {
            state.queues.insert(queue.name.clone(), queue.clone());
        }
        drop(state);
        self.tell(Change::Queue(queue.name.clone()));
        Ok(())
    }

    async fn delete_queue(&self, name: &str) -> Result<bool> {
        Ok(self.state().queues.remove(name).is_some())
    }

    async fn schedules(&self) -> Result<Vec<ScheduleRow>> {
        Ok(self.state().schedules.values().cloned().collect())
    }

    async fn put_schedule(&self, schedule: &ScheduleRow) -> Result<()> {
        let mut state = self.state();
        let mut row = schedule.clone();
        if let Some(known) = state.schedules.get(&schedule.name) {
            row.id.clone_from(&known.id);
            row.paused = known.paused;
            row.last_fired_at.clone_from(&known.last_fired_at);
        }
        state.schedules.insert(row.name.clone(), row);
        Ok(())
    }

    async fn change_schedule(&self, name: &str, change: &ScheduleChange) -> Result<bool> {
        let mut state = self.state();
        let Some(row) = state.schedules.get_mut(name) else { return Ok(false) };
        match change {
            ScheduleChange::Pause => row.paused = true,
            ScheduleChange::Resume => row.paused = false,
            ScheduleChange::Fired(at) if row.last_fired_at.as_ref().is_none_or(|last| last < at) => {
                row.last_fired_at = Some(at.clone());
            }
            ScheduleChange::Fired(_) => {}
            ScheduleChange::Delete => drop(state.schedules.remove(name)),
        }
        Ok(true)
    }

    async fn versions(&self) -> Result<Vec<VersionRow>> {
        let mut versions = self.state().versions.clone();
        versions.sort_by_key(|version| std::cmp::Reverse(version.timestamp));
        Ok(versions)
    }

    async fn put_version(&self, name: &str, application: Option<&str>, latest: bool) -> Result<()> {
        let now = self.time();
        let mut state = self.state();
        let newest = state.versions.iter().map(|version| version.timestamp).max().unwrap_or(0);
        let timestamp = now.max(newest + 1);
        match state.versions.iter_mut().find(|version| version.name == name) {
            Some(version) if latest && version.timestamp < newest => version.timestamp = timestamp,
            Some(_) => {}
            None => {
                let application = application.map(str::to_owned);
                let id = crate::id::fresh();
                let row = VersionRow { id, name: name.to_owned(), application, timestamp, created_at: now };
                state.versions.push(row);
            }
        }
        Ok(())
    }
}

/// Puts a workflow back that nobody runs any more.
fn recover(run: &mut Run) -> String {
    run.status = Status::Enqueued;
    run.owner = None;
    run.started_at = None;
    run.queue.get_or_insert_with(|| INTERNAL_QUEUE.to_owned()).clone()
}

/// Memory has no statements of the user's.
struct NoTransaction {
    store: MemoryStore,
    nothing: (),
}

#[async_trait]
impl StoreTransaction for NoTransaction {
    fn connection(&mut self) -> &mut (dyn Any + Send) {
        &mut self.nothing
    }

    fn connection_ref(&self) -> &(dyn Any + Send) {
        &self.nothing
    }

    async fn commit(self: Box<Self>, checkpoint: &Checkpoint) -> Result<Checkpointed> {
        let mut state = self.store.state();
        Ok(self.store.record(&mut state, checkpoint))
    }

    async fn rollback(self: Box<Self>) {}
}
