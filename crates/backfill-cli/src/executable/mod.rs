//! Tasks that are programs in a directory.
//!
//! | file | what it does |
//! | --- | --- |
//! | `find` | which files are tasks, and what they are called |
//! | `rescan` | which ones come and go while a worker runs |
//! | `run` | running one for a job |
//! | `lines` | what a program prints, line by line |
//! | `secrets` | which variables of the environment programs do not get |

mod find;
mod lines;
mod rescan;
mod run;
mod secrets;

pub use find::{Found, find};
pub use rescan::Directory;
pub use run::handler;
pub use secrets::{is_ours, withheld};
