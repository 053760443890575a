//! What is done with messages again and again, and what each of it may read.

use std::time::Duration;

use backfill::postgres::PostgresStorage;
use backfill::storage::messages::{
    Applied, DocumentChange, DocumentKey, Expect, Holder, Messages, NewEvent, Take, TakenJob, Unit,
};
use backfill::storage::{NewJob, Outcome, Storage};
use backfill::{JobSpec, Payload};

use crate::acts::{Act, Actor};

const LONG: Duration = Duration::from_secs(600);

/// Everything that is done with messages, on the connection of an actor.
pub struct Messenger<'a> {
    actor: &'a Actor<'a>,
    storage: PostgresStorage,
}

impl<'a> Messenger<'a> {
    pub fn new(actor: &'a Actor<'a>) -> Self {
        let storage = PostgresStorage::new(actor.one.clone(), "graphile_worker").expect("a schema").with_messages();
        Self { actor, storage }
    }

    fn messages(&self) -> &dyn Messages {
        self.storage.messages().expect("messages")
    }

    async fn take(&self, lines: &[(String, usize)], in_line: bool) -> (Vec<TakenJob>, Act) {
        let request = Take::new(Holder::Lease { name: "plans", lasts: LONG }, lines);
        let request = if in_line { request.in_line() } else { request };
        let take = async { self.messages().take(&request).await.expect("take").jobs };
        self.actor.watched(&format!("a take from {} lines, in line {in_line}", lines.len()), take).await
    }

    async fn apply(&self, what: &str, units: &[Unit]) -> Act {
        let apply = async { self.messages().apply(units).await.expect("apply") };
        let (applied, act) = self.actor.watched(&format!("{} units that {what}", units.len()), apply).await;
        assert!(applied.iter().all(Applied::is_done), "{applied:?}");
        act
    }

    /// The lines must have enough for all rounds; of the last ones nothing is asked but looks.
    pub async fn live(&self, lines: &[String]) {
        let message = |line: &str, n: usize| -> NewJob { JobSpec::new(line, n).check(1_000).expect("a message") };
        for round in 0..8 {
            let some =
                |count: usize, limit| lines[..count].iter().map(|line| (line.clone(), limit)).collect::<Vec<_>>();
            for (lines, in_line) in [(some(1, 50), false), (some(10, 5), false), (some(1, 10), true)] {
                let wanted: usize = lines.iter().map(|(_, limit)| limit).sum();
                let (taken, act) = self.take(&lines, in_line).await;
                assert_eq!(taken.len(), wanted, "{act:?}");
                // There are three more indexes, and rows of queues. In line, more jobs than are taken are looked at for their groups.
                act.reads_no_more_than_for(2 * wanted + if in_line { 90 } else { 0 } + 3 * lines.len());
                let receipts: Vec<_> = taken
                    .iter()
                    .filter_map(|job| match &job.hold {
                        backfill::storage::messages::Hold::Lease { receipt, .. } => Some((*receipt, LONG)),
                        _ => None,
                    })
                    .collect();
                let renew = async { self.messages().renew(&receipts).await.expect("renew").len() };
                let (renewed, act) = self.actor.watched("a renewal", renew).await;
                assert_eq!(renewed, wanted);
                act.reads_no_more_than_for(3 * wanted);
                let units: Vec<Unit> = taken
                    .iter()
                    .enumerate()
                    .map(|(place, job)| {
                        let outcome = match (place + round) % 3 {
                            0 => Outcome::requeued(LONG),
                            _ => Outcome::completed(),
                        };
                        Unit::new().settle(job.hold.clone(), outcome).adding([message("next", place)])
                    })
                    .collect();
                self.apply("settle and add", &units).await.reads_no_more_than_for(3 * wanted);
            }
            let key = |n: usize| DocumentKey::new("plans", format!("{} {round} {n}", self.actor.worker));
            let documents: Vec<Unit> = (0..50)
                .map(|n| {
                    let put = DocumentChange::put(key(n), Payload::new("plans", &n).expect("JSON"));
                    let event = NewEvent::new("plans", Payload::new("plans", &n).expect("JSON"));
                    Unit::new().expect(Expect::absent(key(n))).change(put).event(event)
                })
                .collect();
            self.apply("store documents and append", &documents).await.reads_no_more_than_for(2 * 50);
            let depths = async { self.messages().depths(lines, 100).await.expect("depths").len() };
            let (counted, act) = self.actor.watched("depths", depths).await;
            assert_eq!(counted, lines.len());
            // Of each up to 101 of three kinds.
            act.reads_no_more_than_for(lines.len() * 40);
            let peek = async { self.messages().peek(&lines[0], 10).await.expect("peek").len() };
            let (seen, act) = self.actor.watched("a peek", peek).await;
            assert_eq!(seen, 10);
            act.reads_no_more_than_for(10);
            let end = async { self.messages().end_leases(None).await.expect("end").jobs.len() };
            let (ended, act) = self.actor.watched("ending leases", end).await;
            assert_eq!(ended, 0);
            act.reads_no_more_than_for(1);
            let events = async { self.messages().events("plans", 0, 20).await.expect("events").len() };
            let (read, act) = self.actor.watched("events", events).await;
            assert_eq!(read, 20);
            act.reads_no_more_than_for(20);
        }
    }
}
