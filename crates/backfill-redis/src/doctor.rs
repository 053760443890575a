//! Looking for what is wrong. Changes nothing.
//!
//! What loses data on Redis is mostly its settings: what it writes to its disk and when, what it does when its memory is full, and what a replica
//! has not heard of yet when it takes over.

use std::collections::HashMap;

use async_trait::async_trait;
use backfill_core::storage::messages::LEASE;
use backfill_core::storage::{Check, CheckStatus, Doctor, Effort, Storage, Watch};
use backfill_core::{Error, Result};
use chrono::{TimeDelta, Utc};

use crate::consumer::STALE;
use crate::keys::Key;
use crate::{RedisStorage, VERSION};

/// What the scripts need: flags that say what may run when memory is full.
const OLDEST: (u32, u32) = (7, 0);
/// Clocks that agree differ by less.
const CLOCKS_AGREE: TimeDelta = TimeDelta::seconds(5);
/// A worker that sent no heartbeat for so long is dead by anybody's watch.
const LONG_DEAD: std::time::Duration = std::time::Duration::from_mins(10);

#[async_trait]
impl Doctor for RedisStorage {
    async fn diagnose(&self, _: Effort) -> Vec<Check> {
        let info = match self.info().await {
            Ok(info) => info,
            Err(error) => return vec![unreachable(&error)],
        };
        let mut checks =
            vec![self.server(&info), durability(&info, self.appendfsync().await), memory(&info), replicas(&info)];
        checks.push(self.clock().await.unwrap_or_else(|error| skipped("clock", &error)));
        checks.push(self.namespace_version().await);
        checks.push(self.locks().await.unwrap_or_else(|error| skipped("locks", &error)));
        checks.push(self.workers_alive().await.unwrap_or_else(|error| skipped("workers", &error)));
        checks
    }
}

type Info = HashMap<String, String>;

impl RedisStorage {
    async fn info(&self) -> Result<Info> {
        let text: String = self.link.read("ask the server about itself", &redis::cmd("INFO")).await?;
        Ok(read_info(&text))
    }

    /// When the server waits for its disk. Some who run servers for others let nobody ask.
    async fn appendfsync(&self) -> Result<Option<String>> {
        let mut command = redis::cmd("CONFIG");
        command.arg("GET").arg("appendfsync");
        let found: Vec<String> = self.link.read("ask when the server waits for its disk", &command).await?;
        Ok(found.into_iter().nth(1))
    }

    fn server(&self, info: &Info) -> Check {
        let is_valkey = info.get("server_name").is_some_and(|name| name == "valkey");
        let version =
            info.get(if is_valkey { "valkey_version" } else { "redis_version" }).map_or("unknown", String::as_str);
        let mode = info.get("redis_mode").or_else(|| info.get("server_mode")).map_or("standalone", String::as_str);
        let name = if is_valkey { "Valkey" } else { "Redis" };
        let said = format!("{name} {version}, {mode}, {}", self.address());
        let mut numbers = version.split('.').map(|number| number.parse().unwrap_or_default());
        let found = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
        if found < OLDEST {
            return problem("server", said, &format!("upgrade the server to {}.{} or later", OLDEST.0, OLDEST.1));
        }
        fine("server", said)
    }

    async fn clock(&self) -> Result<Check> {
        let before = Utc::now();
        let theirs = self.now().await?;
        let after = Utc::now();
        // Whatever the way took, the server's time lies between these two if the clocks agree.
        let off = (before - theirs).max(theirs - after);
        Ok(if off > CLOCKS_AGREE {
            problem(
                "clock",
                format!("the server's clock and this machine's differ by {} s", off.num_seconds()),
                "let both machines follow NTP: crontabs go by the worker's clock, jobs by the server's",
            )
        } else {
            fine("clock", "this machine's clock and the server's agree".to_owned())
        })
    }

    async fn namespace_version(&self) -> Check {
        match self.version().await {
            Ok(found) => fine("namespace", format!("{:?}, version {found}", self.namespace())),
            Err(Error::NotReady { reason: backfill_core::error::Unready::Missing, .. }) => problem(
                "namespace",
                format!("there is no queue in the namespace {:?}", self.namespace()),
                "migrate it (`backfill migrate`), or name another one",
            ),
            Err(error) => problem(
                "namespace",
                error.to_string(),
                &format!("use a backfill that knows more than version {VERSION}"),
            ),
        }
    }

    /// Locks of holders that are gone and that nobody will free soon.
    async fn locks(&self) -> Result<Check> {
        let registered = self.registered("look at locks", false).await?;
        let stale = self.now().await? - STALE;
        let members = self.members_of(Key::Held, "look at locks").await?;
        let holder = |member: &[u8]| {
            member.split_last_chunk::<9>().map(|(holder, _)| String::from_utf8_lossy(holder).into_owned())
        };
        let mut left: HashMap<String, u64> = HashMap::new();
        for holder in members.iter().filter_map(|member| holder(member)) {
            // What is on its way to another storage has a check of its own.
            let is_known = holder.starts_with(LEASE) || holder.starts_with("move-");
            if !is_known && !registered.iter().any(|(worker, _)| *worker == holder) {
                *left.entry(holder).or_default() += 1;
            }
        }
        if left.is_empty() {
            return Ok(fine("locks", "whatever is held is held by somebody who is there".to_owned()));
        }
        let mut holders: Vec<String> = left.iter().map(|(holder, jobs)| format!("{holder} ({jobs})")).collect();
        holders.sort_unstable();
        Ok(problem(
            "locks",
            format!("jobs are held by holders that are not registered: {}", holders.join(", ")),
            &format!(
                "`backfill unlock` releases them at once; what was locked before {} is released by any worker",
                stale.format("%F %T UTC")
            ),
        ))
    }

    /// Workers that were declared dead by nobody, because none is there.
    async fn workers_alive(&self) -> Result<Check> {
        let now = self.now().await?;
        let watch = Watch::new(LONG_DEAD);
        let registered = self.registered("look at workers", false).await?;
        let dead: Vec<&str> =
            registered.iter().filter(|(_, it)| it.is_dead(&watch, now)).map(|(worker, _)| worker.as_str()).collect();
        Ok(if dead.is_empty() {
            fine("workers", format!("{} registered, all of them alive", registered.len()))
        } else {
            problem(
                "workers",
                format!("dead, and nobody has rescued what they held: {}", dead.join(", ")),
                "start a worker, which does so, or use `backfill unlock`",
            )
        })
    }
}

fn durability(info: &Info, appendfsync: Result<Option<String>>) -> Check {
    let is_one = |name: &str| info.get(name).is_some_and(|value| value == "1");
    if !is_one("aof_enabled") {
        return problem(
            "durability",
            "the server writes snapshots only, or nothing: what was added since the last one is gone when it ends"
                .to_owned(),
            "set appendonly yes, and appendfsync always (nothing is lost) or everysec (a second may be)",
        );
    }
    if info.get("aof_last_write_status").is_some_and(|status| status != "ok") {
        return problem(
            "durability",
            "the server could not write its log".to_owned(),
            "look at its disk and its own log",
        );
    }
    match appendfsync.map(Option::unwrap_or_default) {
        Ok(setting) if setting == "always" => {
            fine("durability", "appendfsync always: what was answered is on the disk".to_owned())
        }
        Ok(setting) if setting == "everysec" => fine(
            "durability",
            "appendfsync everysec: if the server's machine fails, about the last second may be lost".to_owned(),
        ),
        Ok(setting) => problem(
            "durability",
            format!("appendfsync {setting}: the operating system decides when something reaches the disk"),
            "set appendfsync always (nothing is lost) or everysec (a second may be)",
        ),
        Err(error) => skipped("durability", &error),
    }
}

fn memory(info: &Info) -> Check {
    let policy = info.get("maxmemory_policy").map_or("noeviction", String::as_str);
    let most = info.get("maxmemory").map_or("0", String::as_str);
    if policy != "noeviction" {
        return problem(
            "memory",
            format!("maxmemory-policy {policy}: when memory is full the server deletes jobs"),
            "set maxmemory-policy noeviction; then it refuses new ones instead, and what is there stays",
        );
    }
    let used = info.get("used_memory_human").map_or("unknown", String::as_str);
    let limit = if most == "0" { "no limit".to_owned() } else { format!("of {most} bytes") };
    fine("memory", format!("{used} used, {limit}, and nothing is evicted"))
}

fn replicas(info: &Info) -> Check {
    let get = |name: &str| info.get(name).map_or("", String::as_str);
    if get("role") != "master" {
        return problem(
            "replicas",
            "this server is a replica, on which nothing can be written".to_owned(),
            "name the master, or let the sentinels do so (redis+sentinel://)",
        );
    }
    match get("connected_slaves") {
        "" | "0" => fine("replicas", "none".to_owned()),
        count => fine(
            "replicas",
            format!(
                "{count}, which hear of writes after these were answered: after a failover the last ones may be missing (min-replicas-to-write \
                 bounds how many)"
            ),
        ),
    }
}

fn read_info(text: &str) -> Info {
    let pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect()
}

fn unreachable(error: &Error) -> Check {
    problem("server", error.to_string(), "check the URL, and that the server runs and lets this program in")
}

fn fine(what: &'static str, detail: String) -> Check {
    Check::new(what, CheckStatus::Fine { detail })
}

fn problem(what: &'static str, problem: String, remedy: &str) -> Check {
    Check::new(what, CheckStatus::Found { problem, remedy: remedy.to_owned() })
}

fn skipped(what: &'static str, error: &Error) -> Check {
    Check::new(what, CheckStatus::Skipped { why: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(pairs: &[(&str, &str)]) -> Info {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn is_fine(check: &Check) -> bool {
        matches!(check.status, CheckStatus::Fine { .. })
    }

    #[test]
    fn settings_that_lose_jobs_are_found_and_others_are_told() {
        let on = info(&[("aof_enabled", "1"), ("aof_last_write_status", "ok")]);
        for (setting, fine) in [("always", true), ("everysec", true), ("no", false)] {
            assert_eq!(is_fine(&durability(&on, Ok(Some(setting.to_owned())))), fine, "{setting}");
        }
        assert!(!is_fine(&durability(&info(&[("aof_enabled", "0")]), Ok(Some("always".to_owned())))));
        assert!(!is_fine(&durability(&info(&[("aof_enabled", "1"), ("aof_last_write_status", "err")]), Ok(None))));
        for (policy, fine) in [("noeviction", true), ("allkeys-lru", false), ("volatile-ttl", false)] {
            assert_eq!(is_fine(&memory(&info(&[("maxmemory_policy", policy)]))), fine, "{policy}");
        }
        assert!(is_fine(&replicas(&info(&[("role", "master"), ("connected_slaves", "2")]))));
        assert!(!is_fine(&replicas(&info(&[("role", "slave")]))));
    }

    #[test]
    fn what_the_server_says_of_itself_is_read() {
        let read = read_info("# Server\r\nredis_version:7.0.15\r\n\r\nredis_mode:standalone\r\n");
        assert_eq!(read.get("redis_version").map(String::as_str), Some("7.0.15"));
        assert_eq!(read.len(), 2);
    }
}
