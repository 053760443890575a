//! Which scripts lead from where a schema is to where it has to be.

use super::OLDEST;

macro_rules! script {
    ($file:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/sql/schema/", $file))
    };
}

/// Our own objects: number, name, script. Numbers are never reused.
pub(super) const OWN: [(i32, &str, &str); 10] = [
    (1, "pools", script!("own/001_pools.sql")),
    (2, "imports", script!("own/002_imports.sql")),
    (3, "handover", script!("own/003_handover.sql")),
    (4, "dead_after", script!("own/004_dead_after.sql")),
    (5, "add_jobs", script!("own/005_add_jobs.sql")),
    (6, "claim", script!("own/006_claim.sql")),
    (7, "serves", script!("own/007_serves.sql")),
    (8, "status", script!("own/008_status.sql")),
    (9, "in_place", script!("own/009_in_place.sql")),
    (10, "lists", script!("own/010_lists.sql")),
];

/// What messages need, in schemas that want them, with a ledger of their own: number, name, script.
pub(super) const MESSAGES: [(i32, &str, &str); 3] = [
    (1, "messages", script!("messages/001_messages.sql")),
    (2, "take", script!("messages/002_take.sql")),
    (3, "look", script!("messages/003_look.sql")),
];
/// The first of their scripts whose functions keep the name that their schema had.
pub(super) const TAKE: i32 = 2;

/// The number of the script that makes `backfill_claim`.
pub(super) const CLAIM: i32 = 6;
/// The number of the script that makes `add_jobs`. It is also a step on the way to [`REVISION`].
pub(super) const ADD_JOBS: i32 = 5;
/// The body of `add_jobs` before that script, as MD5 with the quoted schema replaced by `S`.
pub(in crate::postgres) const EARLIER_ADD_JOBS: &str = "a3b4876869d07831e1964075e03cf640";

/// The scripts that lead from a revision to [`REVISION`], in order.
pub(super) fn steps(from: i32) -> Vec<&'static str> {
    let mut steps = Vec::new();
    match from {
        0 => steps.push(script!("tables.sql")),
        10 => steps.extend([
            script!("refuse_locked_jobs.sql"),
            script!("from_revision_10.sql"),
            script!("tables.sql"),
            script!("copy_from_revision_10.sql"),
        ]),
        11..=15 => steps.push(script!("from_revision_11.sql")),
        _ => {}
    }
    if (OLDEST..18).contains(&from) {
        steps.push(script!("drop_triggers.sql"));
    }
    if (OLDEST..14).contains(&from) {
        steps.push(script!("drop_functions.sql"));
    }
    match from {
        0 => steps.push(script!("job_spec.sql")),
        10 => steps.extend([script!("drop_revision_10.sql"), script!("job_spec.sql")]),
        11..=12 => steps.extend([script!("drop_job_spec.sql"), script!("job_spec.sql")]),
        _ => {}
    }
    steps.extend([script!("own/005_add_jobs.sql"), script!("functions.sql")]);
    if from < 17 {
        steps.push(script!("view.sql"));
    }
    steps
}
