//! What workflows promise, on each storage: one list of cases.
#![allow(clippy::unwrap_used, reason = "what fails here is a failed test")]

mod cancel;
mod events;
mod faults;
mod handles;
mod messages;
mod operations;
mod place;
mod queues;
mod recovery;
mod schedules;
mod sleeping;
mod steps;
mod wire;

macro_rules! on_each_storage {
    ($($room:ident: $($case:ident),+ ;)+) => {
        mod memory {
            $($(
                #[tokio::test]
                async fn $case() {
                    super::$room::$case(crate::place::Place::memory()).await;
                }
            )+)+
        }
        mod sqlite {
            $($(
                #[tokio::test]
                async fn $case() {
                    super::$room::$case(crate::place::Place::sqlite().await).await;
                }
            )+)+
        }
        #[cfg(feature = "server-tests")]
        mod postgres {
            $($(
                #[tokio::test]
                async fn $case() {
                    super::$room::$case(crate::place::Place::postgres().await).await;
                }
            )+)+
        }
    };
}

on_each_storage! {
    steps: a_finished_step_is_not_run_again, a_recorded_failure_is_replayed, retries_are_counted_and_the_last_result_is_recorded,
        retries_end_where_they_are_not_worth_it, a_panic_in_a_step_is_a_failure_that_is_retried, a_step_that_takes_too_long_has_failed,
        a_renamed_step_is_refused_before_its_effect, a_hundred_steps_at_once_have_the_numbers_of_their_calls,
        the_first_of_several_is_the_first_again, values_stay_the_same, a_step_inside_a_step_is_a_part_of_it,
        names_of_the_engine_are_refused, a_step_is_recorded_as_others_read_it, a_patch_is_taken_by_new_workflows_alone;
    handles: one_id_is_one_execution, one_id_is_one_execution_in_two_processes, an_id_of_another_workflow_is_refused, an_unknown_id_is_said_at_once,
        a_deleted_workflow_is_said_to_those_who_wait, a_finished_workflow_is_not_begun_again, a_result_is_read_by_any_process,
        an_error_of_ones_own_comes_back, an_unregistered_workflow_is_refused, a_child_is_started_once, a_childs_result_is_recorded,
        a_child_inherits_who_asked, an_input_that_cannot_be_read_is_an_error;
    recovery: a_dead_process_is_taken_over, a_stalled_process_cannot_write, what_is_begun_too_often_is_set_aside,
        a_panic_in_the_body_begins_it_again, a_shutdown_leaves_what_is_not_done, a_named_executor_takes_back_its_own_at_once,
        executors_without_a_lease_are_left_alone, a_crash_at_each_write_ends_in_the_same_result, two_that_talk_are_both_recovered;
    sleeping: a_restarted_sleep_is_not_begun_anew, the_time_of_queued_work_begins_when_it_does, what_is_beyond_its_time_is_cancelled,
        a_deadline_holds_when_its_process_is_dead, a_child_has_its_parents_deadline;
    cancel: a_sleeper_hears_it_at_once, a_step_hears_it_at_once_and_is_not_recorded, a_swallowed_cancellation_is_no_success,
        another_process_hears_it, descendants_are_cancelled_too, bulk_cancel_passes_over_what_has_ended, a_cancelled_workflow_goes_on_when_resumed,
        a_running_workflow_that_is_resumed_is_lost_to_its_execution;
    queues: each_is_run_once_by_many_processes, limits_are_never_exceeded, a_rate_holds, lower_priorities_come_first_then_the_oldest,
        a_deduplication_id_is_held_until_the_end, a_delay_is_kept_and_can_be_changed, options_without_their_queue_are_refused,
        parts_have_limits_of_their_own, versions_have_their_own_work, queues_that_nobody_listens_to_wait, other_processes_get_what_this_one_cannot_run,
        settings_may_change_while_it_runs, applications_do_not_take_each_others_work, queued_work_begins_at_once, what_is_debounced_runs_once_with_the_latest_input;
    messages: they_come_in_order_by_topic, one_that_does_not_come_is_none_and_stays_it, a_key_is_sent_once, a_missing_destination_is_said,
        two_who_receive_at_once_are_refused, a_received_message_is_not_received_again;
    events: one_is_waited_for_and_the_last_value_holds, many_wait_for_one, one_that_is_not_set_is_none,
        a_stream_is_read_to_its_end, a_stream_ends_with_its_workflow, a_closed_stream_is_not_written_to;
    schedules: one_is_started_for_each_moment_by_many_processes, paused_ones_start_nothing, a_window_is_made_up_for_once,
        a_wrong_expression_is_refused, a_schedule_keeps_its_state_when_it_is_stored_again;
    operations: a_fork_has_what_was_before_its_step, a_fork_begins_at_a_name_or_the_last_failure, old_ones_are_deleted_and_no_others,
        an_export_comes_back_as_it_was, what_is_asked_for_is_listed, texts_are_stored_as_they_are, the_latest_version_can_be_set,
        a_resumed_delay_is_skipped;
    faults: a_start_whose_caller_is_dropped_is_begun_all_the_same,
        what_a_process_should_run_and_does_not_is_put_back,
        many_that_are_resumed_again_and_again_all_run,
        an_execution_that_lost_its_workflow_is_told_so_whatever_it_writes,
        a_function_that_panics_before_its_first_step_harms_nobody_else,
        a_shutdown_ends_also_while_others_start,
        a_new_version_of_a_named_executor_leaves_the_old_ones_work_to_others,
        writes_to_one_stream_at_once_are_all_kept,
        a_child_of_another_name_is_refused_again_on_replay,
        calls_with_one_key_at_once_are_one_debounced_workflow,
        a_schedule_that_goes_on_makes_up_for_no_pause,
        a_childs_own_time_holds_in_its_queue,
        a_bulk_cancel_is_heard_in_another_process,
        arguments_of_other_languages_are_given_as_they_are;
    wire: other_formats_do_not_spoil_lists, the_stored_bytes_are_portable;
}
