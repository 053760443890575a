//! Databases in other encodings: the storage's contract holds there, and all SQL can be read there.

use crate::{database_in, schema_in};
use backfill::storage::contract::{adding, claiming, cron, managing, settling};

/// Runs cases of the contract, each in a schema of its own.
macro_rules! cases {
    ($pool:expr, $($module:ident [$($case:ident)*])*) => {
        $($({
            println!(concat!(stringify!($module), "::", stringify!($case)));
            let storage = schema_in($pool).await.0.storage().consumer();
            $module::$case(storage).await;
        })*)*
    };
}

/// What a job is added with, claimed and settled by, in a database of this encoding.
async fn works_in(encoding: &str) {
    let pool = database_in(encoding).await;
    cases!(&pool,
        adding [answers_are_paired_with_their_inputs defaults_are_graphiles replace_updates_a_waiting_job_entirely
            preserve_run_at_keeps_the_time_of_an_untried_job_only unsafe_dedupe_keeps_whatever_is_there
            replacing_a_running_job_leaves_it_keyless_and_without_retry replacing_a_dead_job_adds_a_new_one
            array_payloads_are_joined concurrent_adds_under_one_key_leave_one_job]
        claiming [order_is_priority_then_time only_ready_jobs_of_known_tasks_up_to_the_limit
            last_attempts_are_taken_for_free_slots_only a_claim_takes_about_as_many_bytes_as_it_may
            each_job_is_claimed_by_exactly_one_of_many_claimers a_serial_queue_gives_one_job_at_a_time
            a_job_is_handed_off_or_claimed_and_never_both adding_wakes_a_listener forbidden_flags_are_left_alone
            limits_of_tasks_hold_and_leave_room_for_others a_claim_whose_answer_was_lost_is_released]
        cron [an_identifier_gets_one_job_per_moment_and_never_goes_back]
        settling [completed_jobs_are_gone failed_jobs_wait_as_told dead_jobs_stay_dead
            snoozed_and_returned_jobs_get_their_attempt_back a_replaced_job_is_never_revived
            settling_twice_is_settling_once error_texts_never_break_the_write items_that_are_left_become_the_payload]
        managing [remove_deletes_waiting_jobs_and_takes_the_key_of_running_ones reschedule_sets_zero_and_revives
            jobs_are_listed_and_counted_by_state]
    );
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_are_added_claimed_and_settled_in_latin1() {
    works_in("LATIN1").await;
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_are_added_claimed_and_settled_in_win1252() {
    works_in("WIN1252").await;
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_are_added_claimed_and_settled_in_koi8r() {
    works_in("KOI8R").await;
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_are_added_claimed_and_settled_in_euc_jp() {
    works_in("EUC_JP").await;
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_are_added_claimed_and_settled_in_sql_ascii() {
    works_in("SQL_ASCII").await;
}

/// Every statement and script has to be readable in every encoding: servers refuse one even for a character in a comment.
#[test]
fn all_sql_is_ascii() {
    let mut texts = 0;
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut directories: Vec<_> = [".sqlx", "sql", "crates/backfill-sqlite/.sqlx", "crates/backfill-sqlite/sql"]
        .map(|name| root.join(name))
        .into();
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            let text = match path.extension().and_then(std::ffi::OsStr::to_str) {
                None if path.is_dir() => {
                    directories.push(path);
                    continue;
                }
                Some("sql") => std::fs::read_to_string(&path).expect("text"),
                Some("json") => {
                    let data = std::fs::read_to_string(&path).expect("text");
                    let data: serde_json::Value = serde_json::from_str(&data).expect("JSON");
                    data["query"].as_str().expect("a query").to_owned()
                }
                _ => continue,
            };
            texts += 1;
            let odd = text.lines().find(|line| !line.is_ascii());
            assert!(odd.is_none(), "{}: {odd:?}", path.display());
        }
    }
    assert!(texts > 100, "{texts}");
}
