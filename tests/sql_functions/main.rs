//! The SQL functions, ours against Node's: the same calls on both schemas give the same rows, errors and notifications.

mod add_job;
mod add_jobs;
mod administration;
mod claims;
mod input;
mod pair;
#[path = "../support/mod.rs"]
mod support;
mod triggers;

fn spec(values: &str) -> String {
    format!("row({values})::S.job_spec")
}
