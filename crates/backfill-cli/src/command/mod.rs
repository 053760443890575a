//! One file for each command.

pub mod add;
pub mod cleanup;
pub mod completions;
pub mod crontab;
pub mod doctor;
pub mod input;
pub mod inspect;
pub mod jobs;
pub mod man;
pub mod manage;
pub mod messages;
pub mod migrate;
pub mod spec;
pub mod stats;
pub mod transfer;
#[cfg(feature = "ui")]
pub mod ui;
pub mod watch;
pub mod worker;
pub mod workflow;
