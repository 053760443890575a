//! What is remembered between statements, and what follows from it: no SQL and no connection, so all of it is tested by itself.

mod cursor;
mod looks;
mod plainness;

pub(super) use cursor::Cursors;
pub(super) use looks::{Course, Looks};
pub(super) use plainness::Plainness;
