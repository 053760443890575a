//! A durable queue for programs: one list of cases, on every storage.
//!
//! What any store of this kind should do, and what earlier ones got wrong: late workers that end what others work on, messages that rise again,
//! ids that are given twice, namespaces that meet, events that appear where readers have been.

#![allow(clippy::unwrap_used, reason = "a case fails by it, and the lines of cases say what they do")]

#[cfg(feature = "server-tests")]
#[path = "../support/mod.rs"]
mod support;

#[cfg(feature = "server-tests")]
mod channels;
mod claiming;
#[cfg(feature = "server-tests")]
mod clocks;
#[cfg(feature = "server-tests")]
#[path = "../faults/cluster.rs"]
#[allow(dead_code, clippy::format_push_string, reason = "the fault suite uses more of it, and allows it")]
mod cluster;
#[cfg(feature = "server-tests")]
mod crashes;
mod ending;
mod enqueueing;
mod events;
mod listening;
#[cfg(feature = "server-tests")]
mod locks;
mod operating;
#[cfg(feature = "server-tests")]
#[path = "../../crates/backfill-redis/tests/redis_server/mod.rs"]
mod redis_server;

use std::time::Duration;

use backfill::messages::{Message, Queue};
use backfill::storage::AnyStorage;

/// Longer than any case.
const LONG: Duration = Duration::from_mins(10);

fn queue(storage: &AnyStorage) -> Queue {
    Queue::with_storage(storage.clone(), "a case").expect("messages")
}

async fn claim(queue: &Queue, from: &str) -> Message {
    queue.claim(from, "me").lease(LONG).one().await.expect("claim").expect("one is ready")
}

async fn claim_none(queue: &Queue, from: &str) {
    let claimed = queue.claim(from, "me").up_to(10).await.expect("claim");
    assert!(claimed.is_empty(), "{claimed:?}");
}

/// Makes a test of each case.
macro_rules! cases {
    ($($module:ident { $($case:ident)* })*) => {
        $crate::cases!(@storage memory memory [$($module { $($case)* })*]);
        $crate::cases!(@storage sqlite sqlite [$($module { $($case)* })*]);
        #[cfg(feature = "server-tests")]
        $crate::cases!(@storage postgres postgres [$($module { $($case)* })*]);
        #[cfg(feature = "server-tests")]
        $crate::cases!(@storage redis redis [$($module { $($case)* })*]);
    };
    (@storage $storage:ident $fresh:ident [$($module:ident { $($case:ident)* })*]) => {
        mod $storage {
            $(
                mod $module {
                    $(
                        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                        async fn $case() {
                            let place = crate::$fresh().await;
                            crate::$module::$case(place.storage.clone()).await;
                        }
                    )*
                }
            )*
        }
    };
}
use cases;

cases! {
    enqueueing {
        a_message_is_there_until_it_ends_and_can_be_looked_at_after_that
        an_id_is_given_once
        an_id_that_was_made_here_is_given_once_too
        records_of_purged_messages_are_forgotten
        an_id_whose_message_was_purged_may_be_given_again
        bodies_come_back_byte_for_byte
        hostile_names_of_all_kinds_are_names
        a_delayed_message_is_not_claimed_before_its_time
        what_cannot_be_stored_is_refused
    }
    claiming {
        a_message_is_claimed_once_and_then_there_is_none
        smaller_priorities_come_first_and_queues_are_apart
        eight_workers_claim_each_of_three_hundred_and_twenty_once
        only_the_holder_renews
        an_ended_lease_is_reclaimed_and_a_live_one_is_not
        what_a_claim_finds_does_not_depend_on_a_sweeper
        a_message_that_was_claimed_as_often_as_it_may_be_has_failed
        groups_are_claimed_in_order
        a_handle_goes_from_process_to_process_as_text
        a_handle_of_another_namespace_is_refused
    }
    ending {
        completing_and_failing_twice_is_once_and_changes_nothing
        an_end_and_its_event_are_both_there_or_neither
        a_late_worker_cannot_end_what_another_one_holds
        what_has_ended_never_rises_again
        requeueing_keeps_the_attempts_and_says_nothing
        an_event_that_an_end_did_not_tell_is_not_said_to_be_told
        an_end_is_remembered_for_as_long_as_was_asked
    }
    events {
        events_are_in_order_and_may_be_read_from_anywhere
        parallel_ends_with_events_all_succeed
    }
    listening {
        an_enqueue_wakes_a_subscriber
        what_comes_between_a_claim_and_a_wait_is_not_missed
        a_wait_ends_when_its_time_has_passed
        other_queues_wake_nobody
        what_another_handle_and_other_verbs_make_ready_is_noticed
    }
    operating {
        counts_tell_what_is_ready_delayed_and_claimed
        workers_are_alive_for_as_long_as_they_said
        a_switch_stops_a_host_for_a_queue
        nothing_is_claimed_once_the_call_that_switched_off_has_returned
        namespaces_never_meet
        a_dropped_namespace_is_gone_and_others_stay
        jobs_and_messages_live_in_one_storage
    }
}

/// A storage, and what has to outlive it.
struct Place {
    storage: AnyStorage,
    _directory: Option<tempfile::TempDir>,
}

async fn memory() -> Place {
    // As the others are made.
    std::future::ready(()).await;
    Place { storage: backfill::storage::memory::MemoryStorage::new().into(), _directory: None }
}

async fn sqlite() -> Place {
    use backfill::storage::Storage as _;
    let directory = tempfile::tempdir().expect("a directory");
    let url = format!("sqlite://{}/queue.db", directory.path().display());
    let storage = backfill::sqlite::SqliteStorage::open(&url).expect("open").with_messages();
    storage.migrate().await.expect("migrate");
    Place { storage: storage.into(), _directory: Some(directory) }
}

#[cfg(feature = "server-tests")]
async fn postgres() -> Place {
    use backfill::storage::Storage as _;
    let (_, _, schema) = support::client().await;
    let storage =
        backfill::postgres::PostgresStorage::new(support::pool().await, &schema).expect("a schema").with_messages();
    storage.migrate().await.expect("migrate");
    Place { storage: storage.into(), _directory: None }
}

#[cfg(feature = "server-tests")]
async fn redis() -> Place {
    use backfill::storage::Storage as _;
    let (url, namespace) = (redis_server::shared().url(), redis_server::namespace());
    let storage = backfill::redis::RedisStorage::open(&url, &namespace).expect("open");
    storage.migrate().await.expect("migrate");
    Place { storage: storage.into(), _directory: None }
}

/// A case that the list does not name would never run.
#[test]
fn every_case_is_listed() {
    let list = include_str!("main.rs");
    let modules = [
        include_str!("claiming.rs"),
        include_str!("ending.rs"),
        include_str!("enqueueing.rs"),
        include_str!("events.rs"),
        include_str!("listening.rs"),
        include_str!("operating.rs"),
    ];
    for text in modules {
        for rest in text.split("\npub async fn ").skip(1) {
            let name = rest.split('(').next().unwrap_or_default();
            assert!(list.lines().any(|line| line.trim() == name), "{name} is not listed");
        }
    }
}
