//! Adding jobs to PostgreSQL.

mod batches;
mod cleanup;
mod input;
mod meeting;
mod races;
#[path = "../support/mod.rs"]
mod support;
mod transactions;
