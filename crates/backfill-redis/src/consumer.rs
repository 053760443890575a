//! What a worker needs: claims, results, heartbeats, rescue.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use backfill_core::Result;
use backfill_core::job::JobId;
use backfill_core::storage::messages::settle_units;
use backfill_core::storage::{
    ClaimRequest, ClaimToken, Claimed, ClaimedJob, Consumer, Offers, Registered, Registration, Rescued, Settled,
    Settlement, Storage, Wakeup, Watch, WorkerId, WorkerStatus,
};
use chrono::{DateTime, TimeDelta, Utc};
use futures::stream::BoxStream;
use redis::Value;

use crate::answer;
use crate::codec;
use crate::commit::read_kept;
use crate::errors::odd;
use crate::handoff::Receiver;
use crate::keys::Key;
use crate::link::Args;
use crate::scripts::{BEAT, CLAIM, COMPLETE, REGISTER, RELEASE, SERVE};
use crate::{RedisStorage, wakeups};

/// Graphile's rule: a lock this old is no lock.
pub(crate) const STALE: TimeDelta = TimeDelta::hours(4);

#[async_trait]
impl Consumer for RedisStorage {
    fn reconnect(&self) -> bool {
        self.link.close()
    }

    async fn register(&self, registration: &Registration<'_>) -> Result<bool> {
        let worker = registration.worker.as_str();
        let mut kept = micros(registration.dead_after.unwrap_or_default()).to_be_bytes().to_vec();
        kept.push(u8::from(registration.in_place));
        let mut args: Args = vec![worker.into(), kept];
        push_tasks(&mut args, registration.tasks);
        self.is_one("register", &REGISTER, args).await
    }

    async fn serve(&self, worker: &WorkerId, tasks: &[String]) -> Result<bool> {
        let mut args: Args = vec![worker.as_str().into()];
        push_tasks(&mut args, tasks);
        self.is_one("tell the tasks", &SERVE, args).await
    }

    async fn heartbeat(&self, worker: &WorkerId) -> Result<bool> {
        self.is_one("send a heartbeat", &BEAT, vec![worker.as_str().into()]).await
    }

    async fn report(&self, worker: &WorkerId, status: &WorkerStatus) -> Result<()> {
        let args = vec![worker.as_str().into(), status.to_text().into_bytes()];
        self.is_one("report the status", &BEAT, args).await.map(drop)
    }

    async fn deregister(&self, worker: &WorkerId) -> Result<()> {
        self.release("deregister", vec![b"deregister".to_vec(), worker.as_str().into()]).await.map(drop)
    }

    async fn claim(&self, request: &ClaimRequest<'_>) -> Result<Claimed> {
        const ACTION: &str = "claim jobs";
        let answered = self.link.run(ACTION, &CLAIM, claim_args(request)).await?;
        read_claimed(answered, request.worker).ok_or_else(|| odd(ACTION))
    }

    async fn settle(&self, worker: &WorkerId, settled: &[Settlement]) -> Result<Settled> {
        // What is only to be deleted is judged by a script; the rest are units.
        let is_plain = |settlement: &&Settlement| settlement.outcome.is_completed() && settlement.then.is_nothing();
        let (plain, others): (Vec<&Settlement>, Vec<&Settlement>) = settled.iter().partition(is_plain);
        let others: Vec<Settlement> = others.into_iter().cloned().collect();
        let mut written = Settled::default();
        if !others.is_empty() {
            written = settle_units(self, worker, &others).await?;
        }
        if !plain.is_empty() {
            written = written.and(self.complete_claimed(worker, &plain).await?);
        }
        Ok(written)
    }

    async fn existing(&self, ids: &[JobId]) -> Result<Vec<JobId>> {
        let kept = read_kept("look for jobs", &self.link, ids).await?;
        Ok(ids.iter().zip(kept).filter(|(_, kept)| kept.is_some()).map(|(id, _)| *id).collect())
    }

    async fn release_untracked(&self, worker: &WorkerId, holds: &[JobId]) -> Result<u64> {
        let mut args: Args = vec![b"untracked".to_vec(), worker.as_str().into()];
        args.extend(holds.iter().map(|id| codec::id(*id).to_vec()));
        self.handoffs.is_releasing(worker);
        match self.release("release jobs", args).await {
            Ok(released) => Ok(released.map_or(0, |(jobs, moment)| {
                self.handoffs.released_at(worker, moment);
                jobs
            })),
            Err(error) => {
                if error.is_refusal() {
                    self.handoffs.was_refused();
                }
                Err(error)
            }
        }
    }

    async fn release_stale(&self) -> Result<u64> {
        let before = codec::moment(self.now().await? - STALE);
        let released = self.release("release old locks", vec![b"stale".to_vec(), before.to_vec()]).await?;
        Ok(released.map_or(0, |(jobs, _)| jobs))
    }

    async fn rescue(&self, watch: &Watch) -> Result<Vec<Rescued>> {
        let now = self.now().await?;
        let mut rescued = Vec::new();
        for (worker, registered) in self.registered("look for dead workers", false).await? {
            if !registered.is_dead(watch, now) {
                continue;
            }
            let args: Args = vec![
                b"rescue".to_vec(),
                codec::moment(registered.seen_at).to_vec(),
                worker.clone().into_bytes(),
                Rescued::last_error(&worker).into_bytes(),
                if registered.in_place { b"1".to_vec() } else { b"0".to_vec() },
                fastrand::i32(0..).to_string().into_bytes(),
            ];
            // Somebody else may have been quicker, or it has sent a heartbeat.
            if let Some((jobs, _)) = self.release("rescue jobs", args).await? {
                rescued.push(Rescued { worker, jobs });
            }
        }
        Ok(rescued)
    }

    fn wakeups(&self, offers: Offers) -> BoxStream<'static, Wakeup> {
        wakeups::of_jobs(self.link.again(), offers.map(|offers| Receiver::new(offers, Arc::clone(&self.handoffs))))
    }
}

impl RedisStorage {
    async fn is_one(&self, action: &'static str, script: &crate::scripts::Script, args: Args) -> Result<bool> {
        let answered = self.link.run(action, script, args).await?;
        answer::number(&answered).map(|number| number == 1).ok_or_else(|| odd(action))
    }

    /// How many jobs were released, and when.
    pub(crate) async fn release(&self, action: &'static str, args: Args) -> Result<Option<(u64, [u8; 8])>> {
        match self.link.run(action, &RELEASE, args).await? {
            Value::Nil => Ok(None),
            answered => {
                let read = || {
                    let [jobs, moment] = answer::parts(answered)?;
                    Some((answer::number(&jobs)?.try_into().ok()?, answer::bytes(moment)?.try_into().ok()?))
                };
                read().map(Some).ok_or_else(|| odd(action))
            }
        }
    }

    async fn complete_claimed(&self, worker: &WorkerId, settled: &[&Settlement]) -> Result<Settled> {
        const ACTION: &str = "write results";
        let mut args: Args = vec![worker.as_str().into()];
        for Settlement { claim, .. } in settled {
            args.push(codec::id(claim.id).to_vec());
            args.push(token_bytes(claim.token).to_vec());
            args.push(claim.queue.clone().unwrap_or_default().into_bytes());
        }
        let answered = self.link.run(ACTION, &COMPLETE, args).await?;
        let read = || {
            let ids = answer::list(answered)?.into_iter();
            ids.map(|id| codec::job_id(&answer::bytes(id)?)).collect::<Option<Vec<JobId>>>()
        };
        let applied = read().ok_or_else(|| odd(ACTION))?;
        let freed = settled.iter().filter(|settlement| settlement.claim.queue.is_some()).count();
        Ok(Settled::applied(applied).freed_queues(freed))
    }

    /// The workers that send heartbeats, and what is known of them; what they say of themselves only if it is asked for.
    pub(crate) async fn registered(
        &self,
        action: &'static str,
        with_status: bool,
    ) -> Result<Vec<(String, Registered)>> {
        let all = async |key| {
            let mut command = redis::cmd("HGETALL");
            command.arg(self.link.keys().get(key));
            self.link.read::<HashMap<String, Vec<u8>>>(action, &command).await
        };
        let (workers, seen, serves) = (all(Key::Workers).await?, all(Key::Seen).await?, all(Key::Serves).await?);
        let status = if with_status { all(Key::Status).await? } else { HashMap::new() };
        let mut registered: Vec<(String, Registered)> = Vec::new();
        for (worker, kept) in workers {
            let read = || {
                let started = codec::time(kept.get(..8)?)?;
                let seen = seen.get(&worker).and_then(|bytes| codec::time(bytes)).unwrap_or(started);
                let dead_after = u64::from_be_bytes(kept.get(8..16)?.try_into().ok()?);
                let tasks =
                    serves.get(&worker).map(|tasks| String::from_utf8_lossy(tasks).into_owned()).unwrap_or_default();
                let tasks: Vec<String> = tasks.split('\0').filter(|task| !task.is_empty()).map(str::to_owned).collect();
                let id = WorkerId::named(worker.as_str());
                let mut it = Registered::new(&Registration::new(&id, &tasks), started);
                it.seen_at = seen;
                it.dead_after = std::time::Duration::from_micros(dead_after);
                it.in_place = kept.get(16) == Some(&1);
                it.status =
                    status.get(&worker).and_then(|text| WorkerStatus::from_text(&String::from_utf8_lossy(text)));
                Some(it)
            };
            registered.push((worker.clone(), read().ok_or_else(|| odd(action))?));
        }
        registered.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        Ok(registered)
    }
}

fn micros(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// The tasks between NULs, and then each.
fn push_tasks(args: &mut Args, tasks: &[String]) {
    args.push(tasks.iter().fold("\0".to_owned(), |text, task| text + task + "\0").into_bytes());
    args.extend(tasks.iter().map(|task| task.clone().into_bytes()));
}

fn claim_args(request: &ClaimRequest<'_>) -> Args {
    let number = |number: usize| number.to_string().into_bytes();
    let mut args: Args = vec![
        request.worker.as_str().into(),
        number(request.limit),
        number(request.run_length),
        number(request.max_bytes),
        number(request.free_slots),
        request.now.map(|now| codec::moment(now).to_vec()).unwrap_or_default(),
    ];
    args.push(number(request.tasks.len()));
    args.extend(request.tasks.iter().map(|task| task.clone().into_bytes()));
    args.push(number(request.limits.len()));
    for (task, limit) in request.limits {
        args.push(task.clone().into_bytes());
        args.push(number(*limit));
    }
    args.push(number(request.forbidden_flags.len()));
    args.extend(request.forbidden_flags.iter().map(|flag| flag.clone().into_bytes()));
    args
}

fn read_claimed(answered: Value, worker: &WorkerId) -> Option<Claimed> {
    let [more, for_free_slots, moment, taken] = answer::parts(answered)?;
    let mut taken = answer::list(taken)?.into_iter();
    // Where nothing was taken there was no moment.
    let moment = if taken.len() == 0 { DateTime::UNIX_EPOCH } else { answer::time(moment)? };
    let mut jobs = Vec::with_capacity(taken.len() / 3);
    while let (Some(id), Some(kept), Some(payload)) = (taken.next(), taken.next(), taken.next()) {
        let payload = codec::payload(answer::bytes(payload)?);
        let mut job = codec::job(&answer::bytes(id)?, &answer::bytes(kept)?, payload)?;
        job.attempts = job.attempts.saturating_add(1);
        job.locked_at = Some(moment);
        job.locked_by = Some(worker.to_string());
        jobs.push(ClaimedJob::new(job, token(moment)));
    }
    Some(Claimed::jobs(jobs).more(answer::number(&more)? == 1).for_free_slots(answer::number(&for_free_slots)? == 1))
}

/// The moment of a claim names it: no two are the same.
pub(crate) fn token(locked_at: DateTime<Utc>) -> ClaimToken {
    ClaimToken::from_number(locked_at.timestamp_micros())
}

fn token_bytes(token: ClaimToken) -> [u8; 8] {
    DateTime::from_timestamp_micros(token.number()).map_or(codec::NONE, codec::moment)
}
