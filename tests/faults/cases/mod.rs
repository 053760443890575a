//! The cases, by what they hit.

mod data;
mod handoff;
mod network;
mod poolers;
mod processes;
mod server;

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

use crate::cluster::Cluster;
use crate::scene::{Outcome, Scene};

/// How long outages last, and how often things are repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    Bounded,
    Full,
}

impl Scale {
    /// How many cases run side by side. What is measured at full length is measured alone.
    pub fn lanes(self) -> usize {
        match self {
            Self::Bounded => 3,
            Self::Full => 1,
        }
    }
}

/// What the cases of a lane share.
pub struct Ground {
    /// The cluster that faults hit.
    pub subject: Arc<Cluster>,
    /// The cluster that none hits.
    pub witness: Arc<Cluster>,
    pub scale: Scale,
}

impl Ground {
    pub async fn scene(&self) -> Scene {
        Scene::new(&self.subject, &self.witness).await
    }

    /// A number that depends on the scale.
    pub fn scaled<T>(&self, bounded: T, full: T) -> T {
        match self.scale {
            Scale::Bounded => bounded,
            Scale::Full => full,
        }
    }

    pub fn seconds(&self, bounded: u64, full: u64) -> Duration {
        Duration::from_secs(self.scaled(bounded, full))
    }
}

#[derive(Clone, Copy)]
pub struct Case {
    pub name: &'static str,
    pub run: fn(Arc<Ground>) -> BoxFuture<'static, Outcome>,
}

impl Case {
    /// What it needs and does not find.
    pub fn wants(&self) -> Option<&'static str> {
        let set = |name| std::env::var_os(name).is_some();
        let (needed, there) = match self.name {
            name if name.contains("pooler") => ("PgBouncer", set("BACKFILL_TEST_PGBOUNCER")),
            name if name.contains("name_is_not_resolved") => ("nss_wrapper", set("BACKFILL_TEST_NSS_WRAPPER")),
            name if name.contains("clocks") => ("libfaketime", set("BACKFILL_TEST_FAKETIME")),
            name if name.contains("tls") => ("TLS in this build", cfg!(feature = "tls-rustls")),
            _ => return None,
        };
        (!there).then_some(needed)
    }
}

macro_rules! cases {
    ($($room:ident: $($name:ident),* $(,)?;)*) => {
        vec![$($(Case { name: stringify!($name), run: |ground| Box::pin(async move { $room::$name(&ground).await }) }),*),*]
    };
}

pub fn all() -> Vec<Case> {
    cases! {
        processes:
            a_worker_is_killed,
            a_worker_is_stopped_for_longer_than_the_lease,
            a_worker_is_stopped_within_a_transaction,
            a_worker_is_asked_to_end_amid_a_batch,
            a_worker_is_asked_to_end_while_the_database_is_down,
            a_job_aborts_its_process,
            a_job_kills_every_process_that_runs_it,
            a_job_overflows_the_stack,
            a_poison_job_has_neighbours,
            a_worker_is_killed_with_jobs_in_their_last_attempt,
            jobs_block_every_thread,
            jobs_ignore_that_they_are_cancelled,
            jobs_hold_every_connection_of_the_pool,
            fifty_workers_start_at_once;
        handoff:
            workers_are_killed_while_jobs_are_handed_off,
            a_worker_is_stopped_while_jobs_are_handed_off,
            the_listener_is_terminated_while_jobs_are_handed_off,
            the_listener_dies_without_a_word_while_jobs_are_handed_off,
            the_server_crashes_while_jobs_are_handed_off;
        server:
            the_listener_is_terminated,
            every_connection_is_terminated_again_and_again,
            the_server_is_restarted,
            the_server_crashes,
            the_server_is_down_for_longer_than_the_lease,
            a_worker_starts_before_the_server,
            nobody_may_connect,
            the_connection_limit_is_reached,
            a_standby_is_promoted,
            the_old_primary_may_only_be_read,
            a_standby_is_gone_and_holds_vacuum_back;
        network:
            every_connection_is_reset,
            connections_die_without_a_word,
            nothing_passes_for_longer_than_the_lease,
            the_listeners_connection_dies_without_a_word,
            a_name_is_not_resolved,
            tls_fails,
            answers_are_lost,
            a_claims_answer_is_not_taken,
            everything_is_slow;
        data:
            many_jobs_fail,
            results_are_written_slowly,
            an_error_has_ten_megabytes,
            rows_are_poisoned_by_hand,
            jobs_are_deleted_while_they_run,
            the_table_is_locked,
            the_table_has_no_statistics,
            a_snapshot_is_held,
            the_role_has_short_timeouts,
            the_default_isolation_is_serializable,
            rows_of_running_jobs_stay_locked,
            a_dead_workers_row_stays_locked,
            a_result_is_refused,
            a_short_timeout_meets_a_long_walk,
            long_errors_are_written_slowly,
            clocks_are_an_hour_off;
        poolers:
            through_a_pooler_by_the_session,
            through_a_pooler_by_the_transaction,
            a_pooler_has_few_connections_for_many_workers,
            a_worker_starts_before_the_server_of_a_pooler;
    }
}

/// Starts three workers, and waits until each of them has started jobs.
pub async fn three_workers(scene: &mut Scene) {
    for name in ["a", "b", "c"] {
        scene.start(name);
    }
    for name in ["a", "b", "c"] {
        scene
            .until(
                &format!("a start by {name}"),
                &format!("exists (select from told where what = 'start' and worker = '{name}')"),
            )
            .await;
    }
}
