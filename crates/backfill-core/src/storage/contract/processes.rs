//! Cases for storages that several processes can use: the test starts itself again, with a role to play.
//!
//! ```text
//! async fn place() -> String { … }                                   // of an empty, migrated storage
//! async fn open(place: &str) -> Arc<dyn Storage> { … }               // in any process
//! backfill_core::storage_process_tests!(place, open);
//! ```
//!
//! The children tell on their standard output what they have done, line by line; a line that was read is a fact, whatever happens
//! to its child after that.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use futures::StreamExt;

use super::{Subject, add, claim, failed, register, settle, spec};
use crate::job::limits::DEFAULT_MAX_PAYLOAD_BYTES;
use crate::job::{JobId, JobSpec};
use crate::storage::{DueJob, JobFilter, Outcome, Wakeup};

/// What a child is to do.
pub const ROLE: &str = "BACKFILL_CONTRACT_ROLE";
/// Where the storage is.
pub const PLACE: &str = "BACKFILL_CONTRACT_PLACE";

/// Makes tests of the cases about processes. The arguments are two async functions: one answers the place of a fresh storage, the
/// other opens the one at a place.
#[macro_export]
macro_rules! storage_process_tests {
    ($place:ident, $open:ident) => {
        mod processes {
            use $crate::storage::contract::processes;

            /// Plays a role, if it is a child that has one.
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn child() {
                if let (Ok(role), Ok(place)) = (std::env::var(processes::ROLE), std::env::var(processes::PLACE)) {
                    processes::play(&role, super::$open(&place).await).await;
                }
            }

            $crate::storage_process_tests!(@case $place $open eight_processes_claim_each_job_once);
            $crate::storage_process_tests!(@case $place $open what_another_process_adds_wakes_a_listener);
            $crate::storage_process_tests!(@case $place $open a_process_killed_at_any_moment_loses_nothing);
        }
    };
    (@case $place:ident $open:ident $case:ident) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $case() {
            let place = super::$place().await;
            let storage = super::$open(&place).await;
            processes::$case(storage, processes::Children::new(module_path!(), &place)).await;
        }
    };
}

/// Starts children.
#[derive(Clone, Debug)]
pub struct Children {
    test: String,
    place: String,
}

impl Children {
    /// Of the test module with this path, for the storage at this place.
    #[must_use]
    pub fn new(module: &str, place: &str) -> Self {
        // The test harness leaves the crate's name out.
        let module = module.split_once("::").map_or(module, |(_, rest)| rest);
        Self { test: format!("{module}::child"), place: place.to_owned() }
    }

    fn start(&self, role: &str) -> Running {
        let program = std::env::current_exe().expect("this program");
        let mut child = Command::new(program)
            .args(["--exact", &self.test, "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .env(PLACE, &self.place)
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("a child");
        let output = BufReader::new(child.stdout.take().expect("its output"));
        Running { child, output }
    }
}

struct Running {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Running {
    /// The next thing it tells, if it still does. (The test harness tells things too.)
    fn next(&mut self) -> Option<(String, JobId)> {
        loop {
            let mut line = String::new();
            if self.output.read_line(&mut line).expect("its output") == 0 {
                return None;
            }
            // The first stands behind the harness's own words.
            let told = line.trim_end().split_once('@').and_then(|(_, told)| told.split_once(' '));
            if let Some((what, id)) = told {
                return Some((what.to_owned(), id.parse().expect("a number")));
            }
        }
    }

    fn rest(&mut self) -> Vec<(String, JobId)> {
        std::iter::from_fn(|| self.next()).collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn tell(what: &str, id: JobId) {
    let mut output = std::io::stdout().lock();
    // Nobody may listen any more.
    let _ = writeln!(output, "@{what} {id}").and_then(|()| output.flush());
}

/// What a child does.
pub async fn play(role: &str, storage: Subject) {
    match role {
        "claim" => {
            let pool = register(&storage).await;
            loop {
                let jobs = claim(&storage, &pool, 5).await;
                if jobs.is_empty() {
                    return;
                }
                for job in jobs {
                    assert_eq!(settle(&storage, &pool, &job, Outcome::Completed).await, [job.id]);
                    tell("done", job.id);
                }
            }
        }
        "add" => {
            for job in add(&storage, (0..7).map(|_| spec()).collect()).await {
                tell("added", job.id);
            }
        }
        "work" => {
            let pool = register(&storage).await;
            let mut moment = Utc::now();
            loop {
                for job in add(&storage, (0..3).map(|_| spec()).collect()).await {
                    tell("added", job.id);
                }
                moment += TimeDelta::minutes(1);
                let keyed = JobSpec::new(super::TASK, 1).key(format!("k{}", fastrand::u8(..3)));
                tell("added", super::add_one(&storage, keyed).await.id);
                let due = spec().check(DEFAULT_MAX_PAYLOAD_BYTES).expect("a case's own spec is valid");
                let due = [DueJob { identifier: pool.to_string(), job: due }];
                for job in storage.add_due(moment, &due).await.expect("add").into_iter().flatten() {
                    tell("added", job.id);
                }
                let claimed = claim(&storage, &pool, 3).await;
                for (place, job) in claimed.iter().enumerate() {
                    if place == 2 {
                        settle(&storage, &pool, job, failed("no", Duration::ZERO)).await;
                        continue;
                    }
                    tell("settling", job.id);
                    settle(&storage, &pool, job, Outcome::Completed).await;
                    tell("done", job.id);
                }
            }
        }
        other => panic!("there is no role {other}"),
    }
}

/// Whatever blocks, away from the runtime.
async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("it ends")
}

/// Eight processes, five hundred jobs: each is done by one of them.
pub async fn eight_processes_claim_each_job_once(storage: Subject, children: Children) {
    let jobs = add(&storage, (0..500).map(|_| spec()).collect()).await;
    let done = apart(move || {
        let mut running: Vec<Running> = (0..8).map(|_| children.start("claim")).collect();
        running.iter_mut().flat_map(Running::rest).map(|(_, id)| id).collect::<Vec<JobId>>()
    })
    .await;
    let mut by_job: BTreeMap<JobId, usize> = BTreeMap::new();
    for id in done {
        *by_job.entry(id).or_default() += 1;
    }
    assert!(by_job.values().all(|times| *times == 1), "no job twice");
    // A process may see nothing because others hold the last locks; what it left is still there.
    let left = storage.counts().await.expect("counts").total();
    assert_eq!(by_job.len() as u64 + left, jobs.len() as u64);
    assert!(left < 100, "{left}");
}

/// What another process adds is heard.
pub async fn what_another_process_adds_wakes_a_listener(storage: Subject, children: Children) {
    let mut wakeups = storage.wakeups();
    let heard = async {
        assert_eq!(wakeups.next().await, Some(Wakeup::Listening));
        let added = apart(move || children.start("add").rest().len()).await;
        let mut heard = 0;
        while heard < 7 {
            match wakeups.next().await {
                Some(Wakeup::JobsAdded(count)) => heard += count,
                other => panic!("{other:?}"),
            }
        }
        added
    };
    assert_eq!(tokio::time::timeout(Duration::from_secs(30), heard).await.expect("in time"), 7);
}

/// A process is killed at many points: at some time after it told this or that. What it was told is stored is there, and what it was
/// told is done is gone.
pub async fn a_process_killed_at_any_moment_loses_nothing(storage: Subject, children: Children) {
    let (mut added, mut settling, mut done) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for round in 0..24 {
        let children = children.clone();
        let told = apart(move || {
            let mut running = children.start("work");
            let mut told: Vec<(String, JobId)> = (0..=round * 5).filter_map(|_| running.next()).collect();
            assert_eq!(told.len(), round * 5 + 1, "it runs until it is killed");
            // Anywhere within the next few statements, or between two of them.
            std::thread::sleep(Duration::from_micros(fastrand::u64(0..3_000)));
            running.child.kill().expect("kill");
            told.extend(running.rest());
            told
        })
        .await;
        for (what, id) in told {
            let set = match what.as_str() {
                "added" => &mut added,
                "settling" => &mut settling,
                _ => &mut done,
            };
            set.insert(id);
        }
    }
    let stored: BTreeSet<JobId> =
        storage.jobs(&JobFilter::new().limit(1_000_000)).await.expect("list").into_iter().map(|job| job.id).collect();
    assert!(stored.is_disjoint(&done), "what is done is gone");
    let lost: Vec<&JobId> = added.iter().filter(|id| !stored.contains(id) && !settling.contains(id)).collect();
    assert!(lost.is_empty(), "{lost:?} were accepted, and are gone");
    // What the dead held comes free, and everything can be done.
    storage.rescue(Duration::from_millis(1)).await.expect("rescue");
    let pool = register(&storage).await;
    loop {
        let jobs = claim(&storage, &pool, 100).await;
        if jobs.is_empty() {
            break;
        }
        for job in jobs {
            settle(&storage, &pool, &job, Outcome::Completed).await;
        }
    }
    // But for those whose key was taken while a process that was killed then ran them: they are dead, as they should be.
    assert_eq!(storage.counts().await.expect("counts").alive(), 0);
}
