//! Searching jobs: one grammar for programs, the binary, the admin page and its API.
//!
//! - A [`Query`] is a list of terms that all hold, such as `state:dead task:send_* payload.order:17`.
//! - A [`Search`] is a query, an order, and how much of the answer is wanted: so many jobs, behind a [`Place`], within a budget of time.
//! - [`Found`] is one page of the answer, and how far the storage has looked.
//!
//! # The grammar
//!
//! | term | jobs |
//! | --- | --- |
//! | `state:dead`, `state:ready,scheduled` | in one of these states |
//! | `task:mail`, `task:send_*`, `task:a,b` | of these tasks; `*` stands for any text |
//! | `queue:"account 7"`, `key:order-*`, `worker:pool_1*` | whose serial queue, key or worker (that holds it) is like that; `queue:*` has one |
//! | `error:refused` | whose last error has this text in it, without regard to case |
//! | `flag:slow` | with this flag |
//! | `id:17`, `id:100..200`, `priority:<0`, `attempts:>=3` | with such a number |
//! | `created:>2h`, `due:<10m` | created more than two hours ago; due in less than ten minutes, or already |
//! | `created:>2026-11-30T12:00:00Z`, `due:<2026-12-01` | after this time; before this day (UTC) |
//! | `payload.customer.id:4242`, `payload.total:>100`, `payload.note:*` | whose payload has this value at this path, a greater one, or any |
//! | `4242` | with this id |
//! | `send_mail`, `order-17` | with this task or this key |
//!
//! A `-` before a term turns it round. Text in quotes is taken as it is: `task:"a*b c"`. In it, `\"` is a quote, and `\\` a backslash.
//! A query has at most [`MAX_TERMS`] terms and [`MAX_BYTES`] bytes.

mod matching;
mod parse;
mod path;
mod pattern;
mod query;
mod range;
mod request;
#[cfg(test)]
mod tests;

pub use path::ValueTest;
pub use pattern::Pattern;
pub use query::{MAX_BYTES, MAX_TERMS, Query, Term, Test};
pub use range::{Range, TimeRange, When};
pub use request::{Found, Order, Page, Place, Search};
