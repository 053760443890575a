//! Handing a new job to a worker that waits for one, so that one durable commit adds and claims it.
//!
//! A worker with free slots **offers** to take a job (the **taker**). Whoever adds a single job that nothing stands in the way of
//! (the **giver**) stores it as claimed by that worker, and notifies it alone, on the taker's **channel**. The taker reads the
//! job, which needs no commit, and starts it.
//!
//! | file | what it does |
//! | --- | --- |
//! | `giver` | knowing takers, choosing one, and handing over |
//! | `taker` | offering, and reading what was handed over |
//!
//! - An offer stands while the taker's listening session holds an **advisory lock** whose number is the hash of its channel. So to
//!   offer and to stop offering writes nothing, and an offer ends with its process: nobody hands anything to a worker that was
//!   killed. The channel's name is random and new for each connection, so the lock is nobody else's.
//! - The row of `backfill_pools` says which tasks a worker runs and on which channel it hears at present. The statement that hands
//!   over locks that row as a claim does, so that it and a rescue, or the end of the worker, exclude each other.
//! - A session can outlive its process: where a machine vanishes, or a process is stopped. So a giver hands a taker the next job
//!   only when the last one is no longer held by it. A worker that does not answer costs each giver one late job, which is
//!   rescued with all others of that worker.
//! - What was handed over and not heard (the listening connection was lost) is given back: see `Storage::release_unknown`, which
//!   takes the channel away first.

mod giver;
mod taker;

pub(super) use giver::Giver;
pub(super) use taker::Offering;
