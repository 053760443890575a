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

mod crashes;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use chrono::Utc;
use futures::StreamExt;

pub(super) use crashes::CALLS;
pub use crashes::{a_process_killed_at_any_moment_loses_nothing, a_process_killed_at_each_write_loses_nothing};

use super::claiming::assert_comes_before_a_poll;
use super::{Subject, add, claim, inspect, register, settle, spec};
use crate::job::JobId;
use crate::storage::{Outcome, Wakeup};

/// What a child is to do.
pub const ROLE: &str = "BACKFILL_CONTRACT_ROLE";
/// Where the storage is.
pub const PLACE: &str = "BACKFILL_CONTRACT_PLACE";
/// Where `strace` is, which kills a child at each of its system calls that write, one after the other. Without it (some containers
/// forbid it) that case says that it was left out.
pub const STRACE: &str = "BACKFILL_TEST_STRACE";

/// Jobs that a child adds for a listener.
const ADDS: usize = 15;

/// Makes tests of the cases about processes. The arguments are two async functions: one answers the place of a fresh storage, the
/// other opens the one at a place.
#[macro_export]
macro_rules! storage_process_tests {
    ($place:ident, $open:ident) => {
        mod processes {
            use $crate::storage::contract::processes;

            /// Plays a role, if it is a child that has one. (On one thread, so that its calls of the system have an order.)
            #[tokio::test]
            async fn child() {
                if let (Ok(role), Ok(place)) = (std::env::var(processes::ROLE), std::env::var(processes::PLACE)) {
                    processes::play(&role, super::$open(&place).await).await;
                }
            }

            $crate::storage_process_tests!(@case $place $open eight_processes_claim_each_job_once);
            $crate::storage_process_tests!(@case $place $open what_another_process_adds_wakes_a_listener);
            $crate::storage_process_tests!(@case $place $open a_process_killed_at_any_moment_loses_nothing);
            $crate::storage_process_tests!(@case $place $open a_process_killed_at_each_write_loses_nothing);
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
        self.start_with(role, Command::new(std::env::current_exe().expect("this program")))
    }

    /// Starts a child that is killed when a thread of it begins its *n*th system call of this name.
    fn start_until(&self, role: &str, call: &str, n: usize, strace: &str) -> Running {
        let mut command = Command::new(strace);
        // Not tracing, but interfering: so nothing is printed.
        command.args(["-f", "-qqq", "-o", "/dev/null", "-e", &format!("trace={call}")]);
        command.args(["-e", &format!("inject={call}:signal=SIGKILL:when={n}")]);
        command.arg(std::env::current_exe().expect("this program"));
        self.start_with(role, command)
    }

    /// Lets a child live until it has told one thing more than so many, and then kills it; answers what it has told.
    pub(in crate::storage::contract) fn live_for(&self, role: &str, told: usize) -> Vec<(String, i64)> {
        let mut running = self.start(role);
        let mut heard: Vec<_> = (0..=told).filter_map(|_| running.next()).collect();
        assert_eq!(heard.len(), told + 1, "it runs until it is killed");
        // Anywhere within the next few statements, or between two of them.
        std::thread::sleep(Duration::from_micros(fastrand::u64(0..3_000)));
        running.child.kill().expect("kill");
        heard.extend(running.rest());
        heard
    }

    /// Lets a child live until a thread of it begins its *n*th system call of this name; answers what it has told.
    pub(in crate::storage::contract) fn live_until(
        &self,
        role: &str,
        call: &str,
        n: usize,
        strace: &str,
    ) -> Vec<(String, i64)> {
        self.start_until(role, call, n, strace).rest()
    }

    fn start_with(&self, role: &str, mut command: Command) -> Running {
        let mut child = command
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
    fn next(&mut self) -> Option<(String, i64)> {
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

    fn rest(&mut self) -> Vec<(String, i64)> {
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

pub(in crate::storage::contract) fn tell(what: &str, id: i64) {
    let mut output = std::io::stdout().lock();
    // Nobody may listen any more.
    let _ = writeln!(output, "@{what} {id}").and_then(|()| output.flush());
}

/// What a child does.
pub async fn play(role: &str, storage: Subject) {
    match role {
        "claim" => {
            let worker = register(&storage).await;
            loop {
                let jobs = claim(&storage, &worker, 5).await;
                if jobs.is_empty() {
                    return;
                }
                for job in jobs {
                    assert_eq!(settle(&storage, &worker, &job, Outcome::completed()).await, [job.id]);
                    tell("done", job.id.number());
                }
            }
        }
        "add" => {
            for _ in 0..ADDS {
                tell("adding", Utc::now().timestamp_micros());
                add(&storage, vec![spec()]).await;
            }
        }
        "live once" => {
            crashes::live(&storage).await;
            tell("ended", 0);
        }
        "live" => loop {
            crashes::live(&storage).await;
        },
        "messages once" => {
            super::messages::live(&storage).await;
            tell("played", 0);
        }
        "messages" => loop {
            super::messages::live(&storage).await;
        },
        other => panic!("there is no role {other}"),
    }
}

/// Whatever blocks, away from the runtime.
pub(in crate::storage::contract) async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("it ends")
}

/// Eight processes, five hundred jobs: each is done by one of them.
pub async fn eight_processes_claim_each_job_once(storage: Subject, children: Children) {
    let jobs = add(&storage, (0..500).map(|_| spec()).collect()).await;
    let done = apart(move || {
        let mut running: Vec<Running> = (0..8).map(|_| children.start("claim")).collect();
        running.iter_mut().flat_map(Running::rest).map(|(_, id)| id.into()).collect::<Vec<JobId>>()
    })
    .await;
    let mut by_job: BTreeMap<JobId, usize> = BTreeMap::new();
    for id in done {
        *by_job.entry(id).or_default() += 1;
    }
    assert!(by_job.values().all(|times| *times == 1), "no job twice");
    // A process may see nothing because others hold the last locks; what it left is still there.
    let left = inspect(&storage).counts().await.expect("counts").total();
    assert_eq!(by_job.len() as u64 + left, jobs.len() as u64);
    assert!(left < 100, "{left}");
}

/// What another process adds is heard, and long before a worker would look by itself.
pub async fn what_another_process_adds_wakes_a_listener(storage: Subject, children: Children) {
    let mut wakeups = storage.wakeups(None);
    let heard = async {
        assert_eq!(wakeups.next().await, Some(Wakeup::Listening));
        let adding = tokio::spawn(apart(move || children.start("add").rest()));
        let mut heard = Vec::new();
        while heard.len() < ADDS {
            match wakeups.next().await {
                Some(Wakeup::JobsAdded(count)) => heard.extend((0..count).map(|_| Utc::now().timestamp_micros())),
                other => panic!("{other:?}"),
            }
        }
        let began = adding.await.expect("it ends").into_iter().map(|(_, micros)| micros);
        began.zip(heard).map(|(began, heard)| Duration::from_micros(heard.abs_diff(began)))
    };
    let late = tokio::time::timeout(Duration::from_secs(30), heard).await.expect("in time");
    assert_comes_before_a_poll(late.collect());
}
