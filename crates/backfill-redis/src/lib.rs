//! Jobs and messages of the queue `backfill` in Redis or Valkey.
//!
//! Programs reach it through the library's feature `redis`, by a URL such as `redis://localhost`. A **namespace** is what a schema is elsewhere: all its
//! keys begin with `{backfill:NAME}:`. They are in one slot of a cluster, so one namespace lives on one server, and a fleet grows by namespaces.
//!
//! # How it works
//!
//! Redis runs one script at a time, and a script is atomic: nothing is half done, and nobody waits for a lock. Claims, results and new jobs are
//! scripts (`lua/`). What is rarer is decided in Rust and written if nothing has changed since it was read (`commit`). Times are the server's.
//!
//! A job is two fields, of two hashes: its payload, which no script looks into, and the rest. Sorted sets are the indexes, ordered by bytes:
//!
//! | key | what is in it |
//! | --- | --- |
//! | `lines` | ready and scheduled jobs without a queue and without flags, by task, priority, time, id |
//! | `flagged`, `flaglines` | the same of those with flags; and by task and flags, so that forbidden ones are passed by at once |
//! | `queued` | the same of those with a queue |
//! | `qlines` | those by queue, priority, time, id |
//! | `heads` | of each serial queue that nobody holds, its first job of each priority; by task, as in `lines` |
//! | `held`, `dead`, `leases` | what is held, by holder; what is dead, by task; leases by their end |
//! | `glines`, `gheld`, `groups`, `gdue` | for takes in line: what waits and what is held of a group, the first jobs of groups, those that are due later |
//! | `ids`, `keyed` | all jobs by id; those with a key |
//!
//! So a claim reads what it takes, and nothing of what waits behind a held queue. `wake` is a stream: whoever reads it hears everything in order, also
//! what was told while it was away for a moment.
//!
//! | file | what it does |
//! | --- | --- |
//! | `address` | which server is meant: one, a sentinels' master, a cluster's |
//! | `link` | the connection |
//! | `keys`, `codec`, `answer` | the names of the keys, how a job is kept, what scripts answer |
//! | `scripts` | the scripts |
//! | `commit` | writing what was decided here |
//! | `consumer` | claims, results, heartbeats, rescue |
//! | `wakeups` | what the stream `wake` says |
//! | `handoff` | offering to take a new job, and hearing of it |
//! | `schedules` | the gate through which crontabs add their jobs |
//! | `admin` | the administrative verbs |
//! | `inspect` | what an administrator sees |
//! | `transfer` | moving jobs from and to other storages |
//! | `messages` | lines, leases, units, documents and events |
//! | `doctor` | looking for what is wrong |
//! | `errors` | what the driver said |

mod address;
mod admin;
mod answer;
mod codec;
mod commit;
mod consumer;
mod doctor;
mod errors;
mod handoff;
mod inspect;
mod keys;
mod link;
mod messages;
mod schedules;
mod scripts;
mod transfer;
mod wakeups;

use std::sync::Arc;

use async_trait::async_trait;
use backfill_core::error::Unready;
use backfill_core::job::{Job, NewJob};
use backfill_core::storage::messages::Messages;
use backfill_core::storage::{Admin, Capabilities, Consumer, Doctor, Inspect, Migrated, Schedules, Storage, Transfer};
use backfill_core::{Error, Result};
use chrono::{DateTime, Utc};

use address::Address;
use errors::odd;
use handoff::Handoffs;
use keys::{Key, Keys};
use link::{Args, Link};
use scripts::ADD;

/// The namespace, if none is named.
pub const DEFAULT_NAMESPACE: &str = "backfill";

/// The version of what is kept.
pub const VERSION: i32 = 1;

/// What an ACL user needs, on keys and channels `{backfill:NAME}:*`: everything else may be forbidden. `role` and `cluster` are asked for only behind sentinels
/// and in a cluster; `config|get` only by the doctor, which says so if it may not.
pub const COMMANDS: [&str; 43] = [
    "asking",
    "cluster|keyslot",
    "cluster|slots",
    "config|get",
    "eval",
    "evalsha",
    "exists",
    "hdel",
    "hexists",
    "hget",
    "hgetall",
    "hincrby",
    "hkeys",
    "hmget",
    "hrandfield",
    "hset",
    "hsetnx",
    "info",
    "ping",
    "publish",
    "pubsub|numsub",
    "role",
    "sadd",
    "smembers",
    "srem",
    "subscribe",
    "time",
    "xadd",
    "xlen",
    "xrange",
    "xread",
    "xrevrange",
    "xtrim",
    "zadd",
    "zcard",
    "zlexcount",
    "zrandmember",
    "zrange",
    "zrangebylex",
    "zrem",
    "zremrangebylex",
    "zrevrangebylex",
    "zscore",
];

/// The most that Redis holds in one value, as it is configured by default (`proto-max-bulk-len`).
const MAX_PAYLOAD_BYTES: u64 = 512 * 1024 * 1024;
/// How many jobs one call adds, at the most: a command has a million arguments at the most, and a job is up to three.
const MAX_BATCH: usize = 300_000;

/// Jobs in a namespace of Redis. Cheap to clone; clones share the connection.
#[derive(Clone, Debug)]
pub struct RedisStorage {
    link: Arc<Link>,
    /// What its listener has to know of what was handed off.
    handoffs: Arc<Handoffs>,
}

impl RedisStorage {
    /// The storage in this namespace of the server at this URL, such as `redis://localhost:6379/0`, `redis+sentinel://host:26379/service` or
    /// `redis+cluster://host:7000`. Connects with the first call.
    ///
    /// # Errors
    /// [`Error::InvalidClient`] for a URL that cannot be read, [`Error::InvalidSchemaName`] for a name that no namespace may have: an empty one, one of
    /// more than 128 characters, or one with a brace or a NUL character.
    pub fn open(url: &str, namespace: &str) -> Result<Self> {
        Self::at(Address::of(url)?, namespace)
    }

    fn at(address: Address, namespace: &str) -> Result<Self> {
        let keys = Keys::of(namespace).ok_or_else(|| {
            let problem = "is no namespace of Redis: it must have 1 to 128 characters, no brace and no NUL character";
            Error::InvalidSchemaName { name: namespace.to_owned(), problem: problem.to_owned() }
        })?;
        Ok(Self { link: Arc::new(Link::new(address, Arc::new(keys))), handoffs: Arc::default() })
    }

    /// The same server, another namespace.
    ///
    /// # Errors
    /// [`Error::InvalidSchemaName`], as for [`open`](Self::open).
    pub fn in_namespace(&self, namespace: &str) -> Result<Self> {
        Self::at(self.link.address().clone(), namespace)
    }

    /// Which server this is, without any secret.
    #[must_use]
    pub fn address(&self) -> String {
        self.link.address().to_string()
    }

    /// The namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.link.keys().namespace()
    }
}

#[async_trait]
impl Storage for RedisStorage {
    fn name(&self) -> String {
        format!("Redis, {}, namespace {:?}", self.link.address(), self.namespace())
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new(MAX_PAYLOAD_BYTES).handoff().several_processes().durable()
    }

    async fn migrate(&self) -> Result<Migrated> {
        let found = self.found_version().await?;
        if let Some(found) = found.filter(|found| *found > VERSION) {
            return Err(self.too_new(found));
        }
        if found == Some(VERSION) {
            // Nothing is written, so that workers can start when memory is full.
            return Ok(Migrated::new(found, VERSION));
        }
        let mut command = redis::cmd("HSETNX");
        command.arg(self.link.keys().get(Key::Counters)).arg("version").arg(VERSION);
        let _: i64 = self.link.read("migrate", &command).await?;
        Ok(Migrated::new(found, VERSION))
    }

    async fn version(&self) -> Result<i32> {
        match self.found_version().await? {
            None => Err(Error::not_ready(self.name(), Unready::Missing)),
            Some(found) if found > VERSION => Err(self.too_new(found)),
            Some(found) => Ok(found),
        }
    }

    async fn now(&self) -> Result<DateTime<Utc>> {
        let (seconds, micros): (i64, i64) = self.link.read("ask the time", &redis::cmd("TIME")).await?;
        DateTime::from_timestamp_micros(seconds * 1_000_000 + micros).ok_or_else(|| odd("ask the time"))
    }

    async fn add(&self, jobs: &[NewJob]) -> Result<Vec<Job>> {
        const ACTION: &str = "add jobs";
        if jobs.is_empty() {
            return Ok(Vec::new());
        }
        if jobs.len() > MAX_BATCH {
            let problem = format!("are too many for one call, in which there can be {MAX_BATCH}; add them in several");
            return Err(Error::InvalidJob { what: "jobs", value: jobs.len().to_string(), problem });
        }
        let mut args = Args::with_capacity(jobs.len() + 4);
        codec::push_runs(&mut args, jobs);
        let answered = self.link.run(ACTION, &ADD, args).await?;
        let read = || {
            let [now, answers] = answer::parts(answered)?;
            answer::added(jobs, answer::time(now)?, &mut answer::list(answers)?.into_iter())
        };
        read().ok_or_else(|| odd(ACTION))
    }

    fn consumer(&self) -> Arc<dyn Consumer> {
        // A connection of its own: what the user's code sends does not stand before its heartbeats.
        Arc::new(Self { link: Arc::new(self.link.again()), handoffs: Arc::default() })
    }

    fn schedules(&self) -> Option<&dyn Schedules> {
        Some(self)
    }

    fn admin(&self) -> Option<&dyn Admin> {
        Some(self)
    }

    fn inspect(&self) -> Option<&dyn Inspect> {
        Some(self)
    }

    fn transfer(&self) -> Option<&dyn Transfer> {
        Some(self)
    }

    fn messages(&self) -> Option<&dyn Messages> {
        Some(self)
    }

    fn doctor(&self) -> Option<&dyn Doctor> {
        Some(self)
    }
}

impl RedisStorage {
    async fn found_version(&self) -> Result<Option<i32>> {
        let mut command = redis::cmd("HGET");
        command.arg(self.link.keys().get(Key::Counters)).arg("version");
        self.link.read("read the version", &command).await
    }

    fn too_new(&self, found: i32) -> Error {
        Error::not_ready(self.name(), Unready::TooNew { found, breaking: None, supported: VERSION })
    }
}
