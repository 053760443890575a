//! The commands that add, look at and manage jobs, as processes.

#[path = "../common/mod.rs"]
mod common;
mod connecting;
mod files;
mod jobs;
mod looking;
mod refusals;
mod searching;
mod without_database;
