//! The contestants.

pub mod dbos;
pub mod durare;
pub mod floor;
pub mod ours;
