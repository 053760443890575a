//! Cases about messages: lines, leases, units, documents and events.
//!
//! For storages whose [`Storage::messages`](crate::storage::Storage::messages) answers something:
//! `backfill_core::storage_message_tests!(fresh);`.

mod deaths;
pub mod documents;
pub mod events;
pub mod groups;
pub mod leases;
pub mod lines;
mod model;
pub mod units;

use std::time::Duration;

pub(super) use deaths::live;
pub use deaths::{
    a_process_killed_at_any_moment_leaves_no_half_of_a_unit, a_process_killed_at_each_write_leaves_no_half_of_a_unit,
};
pub use model::random_histories;

use super::Subject;
use crate::job::limits::DEFAULT_MAX_PAYLOAD_BYTES;
use crate::job::{Job, JobSpec, NewJob, Payload};
use crate::storage::messages::{
    Applied, Depth, Document, DocumentKey, Done, Hold, Holder, Messages, Receipt, Refusal, Take, TakenJob, Unit,
};

/// The line of most cases.
const LINE: &str = "line";
/// Longer than any case.
const LONG: Duration = Duration::from_mins(10);

fn messages(storage: &Subject) -> &dyn Messages {
    storage.messages().expect("the storage implements Messages")
}

fn message(n: impl serde::Serialize) -> JobSpec {
    JobSpec::new(LINE, n)
}

fn new_job(spec: JobSpec) -> NewJob {
    spec.check(DEFAULT_MAX_PAYLOAD_BYTES).expect("a case's own spec is valid")
}

fn json(value: impl serde::Serialize) -> Payload {
    Payload::new("a case", &value).expect("JSON")
}

fn key(name: &str) -> DocumentKey {
    DocumentKey::new("kind", name)
}

/// Takes jobs of one line by a lease.
async fn lease(storage: &Subject, line: &str, limit: usize, lasts: Duration) -> Vec<TakenJob> {
    let lines = [(line.to_owned(), limit)];
    let request = Take::new(Holder::Lease { name: "a case", lasts }, &lines);
    messages(storage).take(&request).await.expect("take").jobs
}

/// The same of [`LINE`], in line.
async fn in_line(storage: &Subject, limit: usize, lasts: Duration) -> Vec<TakenJob> {
    let lines = [(LINE.to_owned(), limit)];
    let request = Take::new(Holder::Lease { name: "a case", lasts }, &lines).in_line();
    messages(storage).take(&request).await.expect("take").jobs
}

/// Takes exactly one.
async fn lease_one(storage: &Subject, lasts: Duration) -> TakenJob {
    let mut taken = lease(storage, LINE, 1, lasts).await;
    assert_eq!(taken.len(), 1, "one job is ready");
    taken.remove(0)
}

fn receipt(job: &TakenJob) -> Receipt {
    match &job.hold {
        Hold::Lease { receipt, .. } => *receipt,
        Hold::Claim { .. } => panic!("a lease was asked for"),
    }
}

async fn apply(storage: &Subject, unit: Unit) -> Applied {
    messages(storage).apply(&[unit]).await.expect("apply").remove(0)
}

/// Does a unit that nothing stands in the way of.
async fn must_apply(storage: &Subject, unit: Unit) -> Done {
    match apply(storage, unit).await {
        Applied::Done(done) => done,
        Applied::Refused(refusal) => panic!("{refusal:?}"),
    }
}

async fn refused(storage: &Subject, unit: Unit) -> Refusal {
    match apply(storage, unit).await {
        Applied::Refused(refusal) => refusal,
        Applied::Done(done) => panic!("{done:?}"),
    }
}

async fn document(storage: &Subject, name: &str) -> Option<Document> {
    messages(storage).document(&key(name)).await.expect("read")
}

async fn depth(storage: &Subject) -> [u64; 3] {
    let Depth { ready, delayed, held, .. } =
        messages(storage).depths(&[LINE.to_owned()], 100).await.expect("depths").remove(0);
    [ready, delayed, held]
}

fn number(job: &Job) -> i64 {
    job.payload.decode().expect("a number")
}

fn numbers(jobs: &[TakenJob]) -> Vec<i64> {
    jobs.iter().map(|job| number(job)).collect()
}

/// Makes one test of each case about messages. The argument is an async function that returns a fresh
/// [`Subject`](crate::storage::contract::Subject), which offers messages.
#[macro_export]
macro_rules! storage_message_tests {
    ($fresh:ident) => {
        mod messages {
            use super::$fresh;

            $crate::storage_message_tests!(@module lines $fresh [
                a_take_gives_each_line_its_own_number
                a_line_is_taken_in_its_order
                delayed_messages_cost_a_take_nothing
                a_take_is_bounded_by_bytes
                each_message_is_taken_by_one_of_many_takers
                a_worker_takes_by_lines_only_while_it_is_registered
                a_serial_queue_gives_one_message_at_a_time_to_leases_and_workers
                depths_tell_what_is_ready_delayed_and_held
                peek_shows_the_head_and_changes_nothing
                purge_deletes_what_it_is_told
                what_cannot_be_asked_for_is_refused
                news_name_the_lines_in_which_something_is_ready
            ]);
            $crate::storage_message_tests!(@module leases $fresh [
                a_lease_ends_at_its_end_and_not_before
                each_ended_lease_is_given_back_once
                only_a_standing_lease_is_renewed_and_by_its_receipt
                a_late_settlement_stands_until_somebody_takes_the_message
                whatever_an_administrator_does_one_lease_is_not_another
                leases_are_left_alone_by_those_who_look_after_workers
                a_requeued_message_keeps_its_place_and_its_attempt
                a_worker_that_asks_for_it_is_rescued_in_place
                a_held_message_is_not_taken_by_a_workers_claim
            ]);
            $crate::storage_message_tests!(@module units $fresh [
                a_unit_is_done_as_a_whole_or_not_at_all
                units_are_judged_in_order_and_independently
                a_unit_that_was_done_is_refused_when_it_is_sent_again
                parallel_units_on_different_messages_all_succeed
                two_who_settle_one_message_get_one_answer_each
                every_outcome_can_be_part_of_a_unit
                keys_of_two_units_of_one_call_may_be_equal
                a_key_that_no_job_may_have_is_free_once_its_job_has_ended
                a_result_that_is_refused_takes_no_other_with_it
                what_no_storage_can_do_is_refused_before_anything_is_written
            ]);
            $crate::storage_message_tests!(@module documents $fresh [
                one_of_many_racers_stores_a_document_that_was_absent
                versions_rise_also_after_a_removal
                documents_are_read_by_their_beginning_in_order
                an_expired_document_is_absent
                documents_go_with_their_owner
                nothing_is_taken_once_a_document_forbids_it
            ]);
            $crate::storage_message_tests!(@module events $fresh [
                events_are_in_order_and_may_be_read_from_anywhere
                no_event_appears_below_one_that_was_read
                trimmed_events_are_gone_and_positions_go_on
            ]);
            $crate::storage_message_tests!(@module groups $fresh [
                several_messages_of_a_group_are_taken_in_order
                nothing_behind_a_held_message_is_taken
                groups_take_turns
                a_held_group_hides_no_other
                a_group_with_much_behind_its_first_hides_no_other
                groups_keep_their_order_under_contention_and_expiries
            ]);

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn random_histories_are_fenced() {
                $crate::storage::contract::messages::random_histories($fresh().await, 40).await;
            }
        }
    };
    (@module $module:ident $fresh:ident [$($case:ident)*]) => {
        mod $module {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    $crate::storage::contract::messages::$module::$case(super::$fresh().await).await;
                }
            )*
        }
    };
}

/// Makes tests of the cases about messages and processes that are killed, as
/// [`storage_process_tests`](crate::storage_process_tests) does. The storage that is opened must offer messages.
#[macro_export]
macro_rules! storage_message_process_tests {
    ($place:ident, $open:ident) => {
        mod message_processes {
            use $crate::storage::contract::{messages, processes};

            /// Plays a role, if it is a child that has one. (On one thread, so that its calls of the system have an order.)
            #[tokio::test]
            async fn child() {
                if let (Ok(role), Ok(place)) = (std::env::var(processes::ROLE), std::env::var(processes::PLACE)) {
                    processes::play(&role, super::$open(&place).await).await;
                }
            }

            $crate::storage_message_process_tests!(
                @case $place $open a_process_killed_at_any_moment_leaves_no_half_of_a_unit
            );
            $crate::storage_message_process_tests!(
                @case $place $open a_process_killed_at_each_write_leaves_no_half_of_a_unit
            );
        }
    };
    (@case $place:ident $open:ident $case:ident) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $case() {
            let place = super::$place().await;
            let storage = super::$open(&place).await;
            storage.migrate().await.expect("migrate");
            messages::$case(storage, processes::Children::new(module_path!(), &place)).await;
        }
    };
}

#[cfg(test)]
mod tests {
    /// A case that the macro does not list would never run.
    #[test]
    fn every_case_is_listed() {
        let list = include_str!("mod.rs");
        let modules = [
            include_str!("documents.rs"),
            include_str!("events.rs"),
            include_str!("groups.rs"),
            include_str!("leases.rs"),
            include_str!("lines.rs"),
            include_str!("units.rs"),
        ];
        let mut cases = 0;
        for text in modules {
            for rest in text.split("\npub async fn ").skip(1) {
                let name = rest.split('(').next().unwrap_or_default();
                assert!(list.lines().any(|line| line.trim() == name), "{name} is not listed");
                cases += 1;
            }
        }
        assert!(cases > 40, "{cases}");
    }
}
