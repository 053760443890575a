//! `backfill worker`: programs as tasks, signals, settings, as processes.

#[path = "../common/mod.rs"]
mod common;
mod ends;
mod programs;
mod settings;
mod waiting;
