//! What a process leaves behind that is killed.
//!
//! A child lives through everything that a storage does with jobs and says what it was told. Each job carries a number of its own
//! in its payload, so that it is known again after it was moved.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::Utc;
use serde_json::json;

use super::super::{Subject, TASK, add, add_one, admin, claim, failed, inspect, register, schedules, settle, transfer};
use super::{Children, STRACE, apart, tell};
use crate::job::limits::DEFAULT_MAX_PAYLOAD_BYTES;
use crate::job::{Job, JobSpec};
use crate::storage::{DueJob, JobFilter, Outcome, Reschedule, Watch};

/// The system calls by which a process changes a file, or speaks to a server and hears its answer. What others can see of a
/// process changes only there.
pub(in crate::storage::contract) const CALLS: [&str; 7] =
    ["pwrite64", "fdatasync", "fsync", "ftruncate", "sendto", "writev", "recvfrom"];
const TRANSFER: &str = "move-within";

fn numbered(number: i64) -> JobSpec {
    JobSpec::new(TASK, json!({ "n": number }))
}

fn number() -> i64 {
    fastrand::i64(1..1 << 53)
}

fn number_of(job: &Job) -> i64 {
    let payload: serde_json::Value = serde_json::from_str(job.payload.as_str()).expect("JSON");
    payload["n"].as_i64().expect("a case's own job is numbered")
}

/// One pass through everything that is done with jobs.
pub(super) async fn live(storage: &Subject) {
    // Whoever was killed before leaves claims behind. They come free.
    storage.rescue(&Watch::new(Duration::from_millis(1))).await.expect("rescue");
    let worker = register(storage).await;
    let plain = [number(), number(), number()];
    add(storage, plain.map(numbered).into()).await;
    for number in plain {
        tell("added", number);
    }
    let keyed = number();
    for _ in 0..2 {
        // Added, and replaced.
        add_one(storage, numbered(keyed).key(format!("k{keyed}")).serial_queue("q")).await;
        tell("added", keyed);
    }
    let due_number = number();
    let due = numbered(due_number).check(DEFAULT_MAX_PAYLOAD_BYTES).expect("a case's own spec is valid");
    let due = DueJob { identifier: worker.to_string(), job: due };
    assert!(schedules(storage).add_due(Utc::now(), &[due]).await.expect("add")[0].is_some());
    tell("added", due_number);

    let mut claimed = claim(storage, &worker, 20).await;
    if let Some(job) = claimed.pop() {
        settle(storage, &worker, &job, failed("no", Duration::ZERO)).await;
    }
    if let Some(job) = claimed.pop() {
        settle(storage, &worker, &job, Outcome::snoozed(Duration::ZERO)).await;
    }
    // One is not known any more.
    claimed.pop();
    for job in claimed {
        tell("settling", number_of(&job));
        settle(storage, &worker, &job, Outcome::completed()).await;
        tell("done", number_of(&job));
    }
    storage.release_untracked(&worker, &[]).await.expect("release");

    move_within(storage).await;
    let job = add_one(storage, numbered(number()).run_in(Duration::from_secs(900))).await;
    admin(storage).reschedule(&[job.id], &Reschedule::new().run_at(Utc::now())).await.expect("reschedule");
    tell("added", number_of(&job));
    tell("settling", number_of(&job));
    admin(storage).complete(&[job.id]).await.expect("complete");
    tell("done", number_of(&job));
    storage.deregister(&worker).await.expect("deregister");
}

/// Moves all jobs to where they are, under new numbers, as if it were elsewhere, and those that an interrupted move held first.
async fn move_within(storage: &Subject) {
    let run = register(storage).await;
    let taken = transfer(storage).reserve(TRANSFER, None, 10_000, u64::MAX).await.expect("reserve");
    let arrived = transfer(storage).import(&run, TRANSFER, &taken).await.expect("import");
    transfer(storage).delete_reserved(TRANSFER, &arrived).await.expect("delete");
    // Keyed jobs stay: their keys are taken there.
    admin(storage).unlock(&[TRANSFER.to_owned()]).await.expect("release");
    transfer(storage).forget_imports(TRANSFER).await.expect("forget");
    storage.deregister(&run).await.expect("deregister");
}

/// What children were told.
#[derive(Default)]
struct Told {
    added: BTreeSet<i64>,
    settling: BTreeSet<i64>,
    done: BTreeSet<i64>,
}

impl Told {
    fn take(&mut self, told: Vec<(String, i64)>) {
        for (what, number) in told {
            match what.as_str() {
                "added" => self.added.insert(number),
                "settling" => self.settling.insert(number),
                "done" => self.done.insert(number),
                _ => continue,
            };
        }
    }

    /// What was stored is there, and what is done is gone.
    async fn check(&self, storage: &Subject, when: &str) {
        let stored = inspect(storage).jobs(&JobFilter::new().limit(1_000_000)).await.expect("list");
        // What a move holds may have arrived, and have been done there.
        let within_reach = stored.iter().filter(|job| job.locked_by.as_deref() != Some(TRANSFER)).map(number_of);
        assert!(within_reach.collect::<BTreeSet<_>>().is_disjoint(&self.done), "{when}: what is done is gone");
        let stored: BTreeSet<i64> = stored.iter().map(number_of).collect();
        let lost: Vec<&i64> =
            self.added.iter().filter(|number| !stored.contains(number) && !self.settling.contains(number)).collect();
        assert!(lost.is_empty(), "{when}: {lost:?} were accepted, and are gone");
    }

    /// And everything can be done, each job once.
    async fn finish(mut self, storage: &Subject) {
        move_within(storage).await;
        storage.rescue(&Watch::new(Duration::from_millis(1))).await.expect("rescue");
        // Some were to be done later.
        let waiting = inspect(storage).jobs(&JobFilter::new().limit(1_000_000)).await.expect("list");
        let waiting: Vec<_> = waiting.iter().map(|job| job.id).collect();
        admin(storage).reschedule(&waiting, &Reschedule::new().run_at(Utc::now())).await.expect("reschedule");
        let worker = register(storage).await;
        loop {
            let jobs = claim(storage, &worker, 100).await;
            if jobs.is_empty() {
                break;
            }
            for job in jobs {
                assert!(self.done.insert(number_of(&job)), "{job:?} is there twice, or was done");
                settle(storage, &worker, &job, Outcome::completed()).await;
            }
        }
        let left = inspect(storage).jobs(&JobFilter::new()).await.expect("list");
        assert!(left.is_empty(), "these cannot be done: {left:?}");
        let lost: Vec<&i64> =
            self.added.iter().filter(|number| !self.done.contains(number) && !self.settling.contains(number)).collect();
        assert!(lost.is_empty(), "{lost:?} were accepted, and never came");
    }
}

/// A process is killed at many points: at some time after it told this or that.
pub async fn a_process_killed_at_any_moment_loses_nothing(storage: Subject, children: Children) {
    let mut told = Told::default();
    for round in 0..24 {
        let children = children.clone();
        told.take(apart(move || children.live_for("live", round * 5)).await);
        told.check(&storage, &format!("round {round}")).await;
    }
    told.finish(&storage).await;
}

/// A process is killed before each single write to a file or a server, one after the other, and before it hears of it.
pub async fn a_process_killed_at_each_write_loses_nothing(storage: Subject, children: Children) {
    let Ok(strace) = std::env::var(STRACE) else {
        println!("left out: {STRACE} does not say where strace is");
        return;
    };
    let (mut told, mut kills) = (Told::default(), 0);
    for call in CALLS {
        for n in 1.. {
            let (children, strace) = (children.clone(), strace.clone());
            let heard = apart(move || children.live_until("live once", call, n, &strace)).await;
            let has_ended = heard.last().is_some_and(|(what, _)| what == "ended");
            told.take(heard);
            told.check(&storage, &format!("before {call} {n}")).await;
            if has_ended {
                break;
            }
            kills += 1;
        }
    }
    println!("killed at {kills} points");
    assert!(kills >= 30, "a life has more points than {kills}");
    told.finish(&storage).await;
}
