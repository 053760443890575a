//! What a process leaves behind that is killed while it takes messages and does units.
//!
//! Each message has a number, and goes through two stages: one unit settles the first and adds the second, stores a document and appends an event;
//! another settles the second and appends an event elsewhere.

use std::collections::BTreeSet;
use std::time::Duration;

use super::super::processes::{CALLS, Children, STRACE, apart, tell};
use super::super::{Subject, inspect};
use super::{LINE, json, lease, message, messages, must_apply, new_job};
use crate::job::{Job, Payload};
use crate::storage::messages::{Applied, DocumentChange, DocumentKey, Expect, NewEvent, Unit};
use crate::storage::{JobFilter, Outcome};

/// Long enough to be settled by a process that is traced; what a killed one held comes back after it.
const SHORT: Duration = Duration::from_secs(2);
const KIND: &str = "moved";

fn stage_of(job: &Job) -> (i64, u8) {
    job.payload.decode().expect("a number and a stage")
}

fn key_of(number: i64) -> DocumentKey {
    DocumentKey::new(KIND, format!("{number:020}"))
}

/// One pass.
pub(in crate::storage::contract) async fn live(storage: &Subject) {
    messages(storage).end_leases(None).await.expect("end");
    let number = fastrand::i64(1..1 << 53);
    must_apply(storage, Unit::new().adding([new_job(message((number, 0_u8)))])).await;
    tell("added", number);
    for _ in 0..2 {
        for job in lease(storage, LINE, 3, SHORT).await {
            let (number, stage) = stage_of(&job);
            let unit = Unit::new().settle(job.hold.clone(), Outcome::completed());
            let unit = if stage == 0 {
                unit.expect(Expect::absent(key_of(number)))
                    .change(DocumentChange::put(key_of(number), json(number)))
                    .adding([new_job(message((number, 1_u8)))])
                    .event(NewEvent::new("moved", json(number)))
            } else {
                unit.event(NewEvent::new("ended", json(number)))
            };
            let applied = messages(storage).apply(&[unit]).await.expect("apply");
            if applied[0].is_done() {
                tell(if stage == 0 { "moved" } else { "ended" }, number);
            }
            assert!(matches!(applied[0], Applied::Done(_) | Applied::Refused(_)));
        }
    }
}

/// What children were told.
#[derive(Default)]
struct Told {
    added: BTreeSet<i64>,
    moved: BTreeSet<i64>,
    ended: BTreeSet<i64>,
}

impl Told {
    fn take(&mut self, told: Vec<(String, i64)>) {
        for (what, number) in told {
            match what.as_str() {
                "added" => self.added.insert(number),
                "moved" => self.moved.insert(number),
                "ended" => self.ended.insert(number),
                _ => continue,
            };
        }
    }

    /// Each message is in one stage, and what belongs to that is there, all of it.
    async fn check(&self, storage: &Subject, when: &str) {
        let mut now = Seen::read(storage).await;
        // A killed process's last statement may still be under way at a server.
        loop {
            let again = Seen::read(storage).await;
            if again == now {
                break;
            }
            now = again;
        }
        let Seen { documents, moved, ended, stages } = now;
        let once = |events: Vec<i64>| {
            let numbers: BTreeSet<i64> = events.iter().copied().collect();
            assert_eq!(numbers.len(), events.len(), "{when}: an event is there twice");
            numbers
        };
        let (moved, ended) = (once(moved), once(ended));
        assert_eq!(documents, moved, "{when}: a document and its event are stored together");
        let at = |stage: u8| stages.iter().filter(move |(_, at)| *at == stage).map(|(number, _)| *number);
        let (first, second): (BTreeSet<i64>, BTreeSet<i64>) = (at(0).collect(), at(1).collect());
        assert_eq!(first.len() + second.len(), stages.len(), "{when}: a message is there twice");
        let after_first: BTreeSet<i64> = second.union(&ended).copied().collect();
        assert_eq!(after_first.len(), second.len() + ended.len(), "{when}: a message was done, and is there");
        assert_eq!(after_first, moved, "{when}: what was moved is in the second stage, or done");
        assert!(first.is_disjoint(&moved), "{when}: what was moved is in the first stage no more");
        let lost: Vec<&i64> =
            self.added.iter().filter(|number| !first.contains(number) && !moved.contains(number)).collect();
        assert!(lost.is_empty(), "{when}: {lost:?} were accepted, and are gone");
        assert!(self.moved.is_subset(&moved) && self.ended.is_subset(&ended), "{when}: what was told was not kept");
    }
}

/// What is there.
#[derive(PartialEq)]
struct Seen {
    documents: BTreeSet<i64>,
    moved: Vec<i64>,
    ended: Vec<i64>,
    stages: Vec<(i64, u8)>,
}

impl Seen {
    async fn read(storage: &Subject) -> Self {
        let number = |payload: &Payload| payload.decode().expect("a number");
        let events = async |stream: &str| {
            let events = messages(storage).events(stream, 0, 100_000).await.expect("events");
            events.iter().map(|event| number(&event.payload)).collect()
        };
        let documents = messages(storage).documents(KIND, "", None, 100_000).await.expect("documents");
        let jobs = inspect(storage).jobs(&JobFilter::new().limit(100_000)).await.expect("list");
        Self {
            documents: documents.iter().map(|document| number(&document.value)).collect(),
            moved: events("moved").await,
            ended: events("ended").await,
            stages: jobs.iter().map(stage_of).collect(),
        }
    }
}

/// A process is killed at many points: at some time after it told this or that.
pub async fn a_process_killed_at_any_moment_leaves_no_half_of_a_unit(storage: Subject, children: Children) {
    let mut told = Told::default();
    for round in 0..16 {
        let children = children.clone();
        told.take(apart(move || children.live_for("messages", round * 3)).await);
        told.check(&storage, &format!("round {round}")).await;
    }
    assert!(told.moved.len() > 10 && told.ended.len() > 5, "{} {}", told.moved.len(), told.ended.len());
}

/// A process is killed before each single write to a file or a server, one after the other, and before it hears of it.
pub async fn a_process_killed_at_each_write_leaves_no_half_of_a_unit(storage: Subject, children: Children) {
    let Ok(strace) = std::env::var(STRACE) else {
        println!("left out: {STRACE} does not say where strace is");
        return;
    };
    let (mut told, mut kills) = (Told::default(), 0);
    for call in CALLS {
        for n in 1.. {
            let (children, strace) = (children.clone(), strace.clone());
            let heard = apart(move || children.live_until("messages once", call, n, &strace)).await;
            let has_ended = heard.last().is_some_and(|(what, _)| what == "played");
            told.take(heard);
            told.check(&storage, &format!("before {call} {n}")).await;
            if has_ended {
                break;
            }
            kills += 1;
        }
    }
    println!("killed at {kills} points");
    assert!(kills >= 20, "a life has more points than {kills}");
}
