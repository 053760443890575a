//! The cases that every storage must pass.
//!
//! For authors of storages, behind the feature `contract`. Each case gets an empty, migrated storage of its own and
//! panics when the contract is broken:
//!
//! ```text
//! async fn fresh() -> std::sync::Arc<dyn backfill_core::storage::Storage> { … }
//! backfill_core::storage_contract_tests!(fresh);
//! ```
//!
//! The macro makes one `#[tokio::test]` of each case, on a runtime with several threads. A storage that several processes can
//! use also passes the cases of [`processes`], in which the test starts itself again and kills itself.
//!
//! | module | what is promised |
//! | --- | --- |
//! | [`adding`] | answers, defaults, each key mode, hostile strings |
//! | [`claiming`] | exactly once among eight claimers, order, serial queues, flags, limits, wakeups, handing off, lost answers |
//! | [`queues`] | the order of serial queues, and runs of their jobs |
//! | [`settling`] | each outcome, the fence, settling twice |
//! | [`heartbeat`] | heartbeats, rescue, identities |
//! | [`cron`] | the gate of crontabs |
//! | [`managing`] | the administrative verbs, counts that add up |
//! | [`moving`] | moving jobs to another storage, each once |
//! | [`processes`] | the same from several processes, and what a killed one leaves behind |

#![allow(clippy::missing_panics_doc, reason = "a case panics when the contract is broken; that is what it is for")]

pub mod adding;
pub mod claiming;
pub mod cron;
pub mod heartbeat;
pub mod managing;
pub mod moving;
pub mod processes;
pub mod queues;
pub mod settling;

use std::sync::Arc;

use super::{ClaimRef, ClaimRequest, Outcome, Settlement, Storage, WorkerId};
use crate::job::limits::DEFAULT_MAX_PAYLOAD_BYTES;
use crate::job::{Job, JobId, JobSpec, RunAt};

/// An empty storage for one case.
pub type Subject = Arc<dyn Storage>;

/// Makes one test of each case. The argument is an async function that answers a fresh [`Subject`].
#[macro_export]
macro_rules! storage_contract_tests {
    ($fresh:ident) => {
        $crate::storage_contract_tests!(@module adding $fresh [
            answers_are_paired_with_their_inputs
            defaults_are_graphiles
            replace_updates_a_waiting_job_entirely
            preserve_run_at_keeps_the_time_of_an_untried_job_only
            unsafe_dedupe_keeps_whatever_is_there
            replacing_a_running_job_leaves_it_keyless_and_without_retry
            replacing_a_dead_job_adds_a_new_one
            array_payloads_are_joined
            concurrent_adds_under_one_key_leave_one_job
            hostile_strings_round_trip
        ]);
        $crate::storage_contract_tests!(@module claiming $fresh [
            order_is_priority_then_time
            only_ready_jobs_of_known_tasks_up_to_the_limit
            last_attempts_are_taken_for_free_slots_only
            a_claim_takes_about_as_many_bytes_as_it_may
            only_what_can_be_taken_counts_by_its_bytes
            the_present_are_told
            each_job_is_claimed_by_exactly_one_of_many_claimers
            a_serial_queue_gives_one_job_at_a_time
            serial_queues_never_overlap_under_contention
            a_locked_queue_does_not_hide_other_jobs
            what_is_passed_by_is_found_when_asked_for
            jobs_without_attempts_left_are_not_claimed
            a_job_is_handed_off_or_claimed_and_never_both
            adding_wakes_a_listener
            a_wakeup_comes_long_before_the_next_poll
            making_a_job_ready_wakes_a_listener
            a_listener_is_told_first_that_it_listens
            a_claim_whose_answer_was_lost_is_released
            a_job_that_never_ran_never_becomes_dead
            forbidden_flags_are_left_alone
            limits_of_tasks_hold_and_leave_room_for_others
            jobs_are_ready_by_the_time_that_is_given
        ]);
        $crate::storage_contract_tests!(@module queues $fresh [
            serial_queues_keep_their_order_under_contention
            nothing_of_a_queue_is_taken_before_its_first_job
            a_queues_backlog_is_never_overtaken_by_its_newest
            a_run_is_the_next_jobs_of_a_queue_under_one_hold
            a_run_is_bounded_like_any_claim
            a_freed_queue_wakes_whoever_serves_its_next_job
        ]);
        $crate::storage_contract_tests!(@module cron $fresh [
            an_identifier_gets_one_job_per_moment_and_never_goes_back
            entries_of_one_moment_are_judged_one_by_one
            entries_that_share_a_key_follow_each_other
            what_is_known_of_an_entry_stays
            many_schedulers_add_one_job_each_time
        ]);
        $crate::storage_contract_tests!(@module settling $fresh [
            completed_jobs_are_gone
            failed_jobs_wait_as_told
            dead_jobs_stay_dead
            snoozed_and_returned_jobs_get_their_attempt_back
            jobs_that_are_cut_off_are_ready_again_with_their_attempt
            jobs_that_are_cut_off_again_and_again_run_out_of_attempts
            a_replaced_job_is_never_revived
            a_broken_claim_settles_nothing
            a_second_claim_by_the_same_worker_is_another_claim
            settling_twice_is_settling_once
            error_texts_never_break_the_write
            items_that_are_left_become_the_payload
        ]);
        $crate::storage_contract_tests!(@module managing $fresh [
            remove_deletes_waiting_jobs_and_takes_the_key_of_running_ones
            complete_and_fail_leave_running_jobs_alone
            reschedule_sets_zero_and_revives
            unlock_releases_jobs_and_queues
            a_worker_that_is_unlocked_while_it_claims_holds_nothing
            cleanup_deletes_only_what_is_unused
            jobs_are_listed_and_counted_by_state
            queues_tasks_and_workers_are_told
            counts_add_up_while_jobs_change
            the_last_id_tells_what_was_ever_added
            reschedule_refuses_what_no_job_may_have
            lists_are_read_without_payloads_or_so_many_bytes_of_them
            large_payloads_are_stored_among_small_ones
        ]);
        $crate::storage_contract_tests!(@module moving $fresh [
            what_is_reserved_is_out_of_reach_until_it_is_released
            a_move_that_was_interrupted_goes_on
            what_is_reserved_is_bounded_by_bytes
            jobs_arrive_as_they_were_and_once
            a_taken_key_keeps_its_job_where_it_is
            a_run_that_was_declared_dead_stores_nothing
        ]);
        $crate::storage_contract_tests!(@module heartbeat $fresh [
            workers_without_heartbeats_are_rescued
            jobs_that_died_twice_come_back_apart
            workers_with_heartbeats_or_deregistered_are_left_alone
            a_rescued_worker_learns_it
            an_identity_is_given_once
            the_longer_of_two_deadlines_counts
            workers_tell_which_tasks_they_run
        ]);
    };
    (@module $module:ident $fresh:ident [$($case:ident)*]) => {
        mod $module {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    $crate::storage::contract::$module::$case(super::$fresh().await).await;
                }
            )*
        }
    };
}

/// The task of most cases.
const TASK: &str = "contract";

fn spec() -> JobSpec {
    JobSpec::new(TASK, serde_json::json!({ "n": 1 }))
}

async fn add(storage: &Subject, specs: Vec<JobSpec>) -> Vec<Job> {
    let jobs: Vec<_> = specs
        .into_iter()
        .map(|spec| spec.check(DEFAULT_MAX_PAYLOAD_BYTES).expect("a case's own spec is valid"))
        .collect();
    storage.add(&jobs).await.expect("add")
}

async fn add_one(storage: &Subject, spec: JobSpec) -> Job {
    add(storage, vec![spec]).await.remove(0)
}

/// A registered worker.
async fn register(storage: &Subject) -> WorkerId {
    let worker = WorkerId::random();
    assert!(storage.register(&worker, &[]).await.expect("register"));
    worker
}

async fn claim(storage: &Subject, worker: &WorkerId, limit: usize) -> Vec<Job> {
    storage.claim(&ClaimRequest::new(worker, &[TASK.to_owned()], limit)).await.expect("claim").jobs
}

/// Claims exactly one job.
async fn claim_one(storage: &Subject, worker: &WorkerId) -> Job {
    let mut jobs = claim(storage, worker, 1).await;
    assert_eq!(jobs.len(), 1, "one job is ready");
    jobs.remove(0)
}

async fn settle(storage: &Subject, worker: &WorkerId, job: &Job, outcome: Outcome) -> Vec<JobId> {
    storage.settle(worker, &[Settlement { claim: ClaimRef::of(job), outcome }]).await.expect("settle").applied
}

fn failed(error: &str, retry: impl Into<RunAt>) -> Outcome {
    Outcome::Failed { error: error.to_owned(), retry: retry.into(), payload: None }
}

async fn read(storage: &Subject, id: JobId) -> Option<Job> {
    storage.job(id).await.expect("read")
}

/// Reads a job that must be there.
async fn must_read(storage: &Subject, id: JobId) -> Job {
    read(storage, id).await.expect("the job exists")
}
