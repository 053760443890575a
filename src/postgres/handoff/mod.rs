//! Direct handoff: a new job goes to an idle worker, so that one durable commit adds and claims it.
//!
//! A worker with free slots **offers** to take a job (the **receiver**). The client that adds a single job which nothing stands in the way of
//! (the **sender**) stores it as claimed by that worker, and notifies it alone, on the receiver's **channel**. The receiver reads the
//! job, which needs no commit, and starts it.
//!
//! | file | what it does |
//! | --- | --- |
//! | `sender` | knowing receivers, choosing one, and handing off |
//! | `receiver` | offering, and reading what was handed off |
//!
//! - An offer stands while the receiver's listening session holds an **advisory lock** whose number is the hash of its channel. So to
//!   offer and to stop offering writes nothing, and an offer ends with its process: no client hands anything off to a worker that was
//!   killed. The channel's name is random and new for each connection, so the lock is nobody else's.
//! - The row of `backfill_pools` says which tasks a worker runs and on which channel it hears at present. The statement that hands
//!   off locks that row as a claim does, so that it and a rescue, or the end of the worker, exclude each other.
//! - A session can outlive its process: where a machine vanishes, or a process is stopped. So a sender hands the next job off to a receiver
//!   only when the last one is no longer held by it. A worker that does not answer costs each sender one late job, which is
//!   rescued with all others of that worker.
//! - What was handed off and not heard (the listening connection was lost) is released: see `Storage::release_untracked`, which
//!   takes the channel away first.

mod receiver;
mod sender;

pub(super) use receiver::Offering;
pub(super) use sender::HandoffSender;
