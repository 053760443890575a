//! The list of the cases, and the macro that makes tests of it.

/// Makes one test of each case. The first argument is an async function that returns a fresh [`Subject`](super::Subject).
///
/// After it stand the capabilities that the storage has besides [`Consumer`](crate::storage::Consumer) and
/// [`Inspect`](crate::storage::Inspect), by which the cases read the truth: `schedules`, `admin`, `transfer`. Without a list it is
/// all of them. What a storage names it passes whole; a test compares the list with what the storage says of itself.
#[macro_export]
macro_rules! storage_contract_tests {
    ($fresh:ident) => {
        $crate::storage_contract_tests!($fresh: schedules admin transfer);
    };
    ($fresh:ident: $($capability:ident)*) => {
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
            a_listener_is_told_first_that_it_listens
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
        $crate::storage_contract_tests!(@module settling $fresh [
            completed_jobs_are_gone
            dead_jobs_stay_dead
            snoozed_and_returned_jobs_get_their_attempt_back
            settling_twice_is_settling_once
            results_of_a_worker_that_was_declared_dead_change_nothing
            error_texts_never_break_the_write
            items_that_are_left_become_the_payload
            what_follows_a_job_is_added_with_its_result_or_not_at_all
        ]);
        $crate::storage_contract_tests!(@module managing $fresh [
            jobs_are_listed_and_counted_by_state
            queues_tasks_and_workers_are_told
            counts_add_up_while_jobs_change
            lists_are_read_without_payloads_or_so_many_bytes_of_them
        ]);
        $crate::storage_contract_tests!(@module searching $fresh [
            a_search_finds_what_its_terms_say
            a_search_with_a_budget_goes_on_where_it_stopped
            a_search_refuses_a_place_of_another_order
            few_jobs_are_counted_exactly_within_any_bound
        ]);
        $crate::storage_contract_tests!(@module heartbeat $fresh [
            workers_without_heartbeats_are_rescued
            workers_with_heartbeats_or_deregistered_are_left_alone
            a_rescued_worker_learns_it
            an_identity_is_given_once
            the_longer_of_two_deadlines_counts
            workers_tell_which_tasks_they_run
            what_a_worker_says_of_itself_is_kept
        ]);
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn the_list_is_what_the_storage_says_of_itself() {
            $crate::storage::contract::has_exactly(&$fresh().await, &[$(stringify!($capability)),*]);
        }
        $($crate::storage_contract_tests!(@capability $capability $fresh);)*
    };
    (@capability schedules $fresh:ident) => {
        $crate::storage_contract_tests!(@module cron $fresh [
            an_identifier_gets_one_job_per_moment_and_never_goes_back
            entries_of_one_moment_are_judged_one_by_one
            entries_that_share_a_key_follow_each_other
            what_is_known_of_an_entry_stays
            many_schedulers_add_one_job_each_time
        ]);
    };
    (@capability admin $fresh:ident) => {
        mod admin {
            use super::$fresh;

            $crate::storage_contract_tests!(@module adding $fresh [
                hostile_strings_round_trip
            ]);
            $crate::storage_contract_tests!(@module claiming $fresh [
                making_a_job_ready_wakes_a_listener
                a_claim_whose_answer_was_lost_is_released
                a_job_that_never_ran_never_becomes_dead
            ]);
            $crate::storage_contract_tests!(@module queues $fresh [
                taking_the_first_job_of_a_queue_away_wakes_a_listener
            ]);
            $crate::storage_contract_tests!(@module heartbeat $fresh [
                jobs_that_died_twice_come_back_apart
            ]);
            $crate::storage_contract_tests!(@module settling $fresh [
                failed_jobs_wait_as_told
                jobs_that_are_cut_off_are_ready_again_with_their_attempt
                jobs_that_are_cut_off_again_and_again_run_out_of_attempts
                a_replaced_job_is_never_revived
                a_broken_claim_settles_nothing
                a_second_claim_by_the_same_worker_is_another_claim
            ]);
            $crate::storage_contract_tests!(@module managing $fresh [
                remove_deletes_waiting_jobs_and_takes_the_key_of_running_ones
                complete_and_fail_leave_running_jobs_alone
                reschedule_sets_zero_and_revives
                unlock_releases_jobs_and_queues
                a_worker_that_is_unlocked_while_it_claims_holds_nothing
                cleanup_deletes_only_what_is_unused
                the_last_id_tells_what_was_ever_added
                reschedule_refuses_what_no_job_may_have
            ]);
        }
    };
    (@capability transfer $fresh:ident) => {
        mod transfer {
            use super::$fresh;

            $crate::storage_contract_tests!(@module managing $fresh [
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
        }
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

#[cfg(test)]
mod tests {
    /// A case that the macro does not list would never run.
    #[test]
    fn every_case_is_listed() {
        let list = include_str!("cases.rs");
        let modules = [
            include_str!("adding.rs"),
            include_str!("claiming.rs"),
            include_str!("claiming/bounds.rs"),
            include_str!("claiming/lost.rs"),
            include_str!("claiming/wakeups.rs"),
            include_str!("cron.rs"),
            include_str!("heartbeat.rs"),
            include_str!("managing.rs"),
            include_str!("moving.rs"),
            include_str!("queues.rs"),
            include_str!("settling.rs"),
        ];
        let mut cases = 0;
        for text in modules {
            for rest in text.split("\npub async fn ").skip(1) {
                let name = rest.split('(').next().unwrap_or_default();
                if rest[name.len()..].starts_with("(storage: Subject)") {
                    assert!(list.lines().any(|line| line.trim() == name), "{name} is not listed");
                    cases += 1;
                }
            }
        }
        assert!(cases > 80, "{cases}");
    }
}
