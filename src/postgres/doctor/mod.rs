//! A health check: what is wrong with a schema, its server, and the way to it, and what to do about it.
//!
//! Nothing is changed. The comparison of objects builds the schema anew under another name in a transaction that is rolled
//! back, so it is right for any version of PostgreSQL.
//!
//! | file | what it looks at |
//! | --- | --- |
//! | `drift` | tables, indexes and functions that are not as this version would make them |
//! | `health` | locks that nobody holds, dead rows, who holds vacuum back, numbers that run out, the clock |
//! | `holders` | jobs that nobody will release, and what is dated ahead |
//! | `reach` | privileges, and whether notifications arrive |

mod drift;
mod health;
mod holders;
mod reach;
mod triggers;

use std::time::Duration;

use super::connection::rights::Need;
use super::migrate::FIRST_WITH_PRIVATE_TABLES;
use super::{PostgresStorage, REVISION, migrate, tally};
use crate::error::{Error, Unready};
use crate::nearest::did_you_mean;
use crate::storage::{Check, CheckStatus, Doctor, Effort};
use async_trait::async_trait;

/// What a check says: nothing wrong, or each thing that is. An error means that it could not look.
type Findings = Result<Seen, Error>;

struct Seen {
    detail: String,
    problems: Vec<(String, String)>,
    /// It could not look, for a reason that is no error.
    nothing: bool,
}

/// How much of the schema can be looked at.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Depth {
    /// It is not there, too old, or not understood.
    None,
    /// Its tables are those of today, its other objects are not, or not yet.
    Tables,
    /// It is at this version's revision, without our own objects.
    WithoutOwn,
    /// All of it.
    Whole,
}

impl Seen {
    fn fine(detail: impl Into<String>) -> Self {
        Self { detail: detail.into(), problems: Vec::new(), nothing: false }
    }

    fn nothing(why: impl Into<String>) -> Self {
        Self { detail: why.into(), problems: Vec::new(), nothing: true }
    }

    fn problem(mut self, problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        self.problems.push((problem.into(), remedy.into()));
        self
    }
}

/// Why something was not looked at that takes reading all jobs.
const UNREAD: &str = "there are so many jobs that they are not read; `backfill doctor --exact` reads them";

/// The remedy where `LISTEN` does not work.
const POLL: &str = "give workers an address without a pooler in transaction mode, or let them poll (`backfill worker \
                    --no-listen`, WorkerBuilder::listen(false))";

#[async_trait]
impl Doctor for PostgresStorage {
    async fn diagnose(&self, effort: Effort) -> Vec<Check> {
        self.look_at_everything(effort).await
    }
}

impl PostgresStorage {
    /// The schema need not be there.
    pub(super) async fn look_at_everything(&self, effort: Effort) -> Vec<Check> {
        let mut checked = Vec::new();
        let connected = self.connection().await;
        let reachable = connected.is_ok();
        let is_read_only = connected.as_ref().is_ok_and(|seen| !seen.problems.is_empty());
        report(&mut checked, "connection", connected, "check the address, the password, and that the server runs");
        if !reachable {
            return checked;
        }
        report(&mut checked, "clock", self.clock().await, "");
        let (revision, depth) = match self.revision().await {
            Ok((seen, depth)) => (Ok(seen), depth),
            Err(error) => (Err(error), Depth::None),
        };
        report(&mut checked, "revision", revision, "");
        if is_read_only {
            let why = "nothing can be notified where nothing can be written".to_owned();
            checked.push(Check::new("notifications", CheckStatus::Skipped { why }));
        } else {
            report(&mut checked, "notifications", self.notifications().await, POLL);
        }
        report(&mut checked, "vacuum", self.vacuum_horizon().await, "");
        if depth >= Depth::Tables {
            report(&mut checked, "privileges", self.privileges().await, "");
            let drift = match depth {
                _ if is_read_only => {
                    Ok(Seen::nothing("they are compared with ones that are made anew, which takes writing"))
                }
                Depth::Whole | Depth::WithoutOwn => self.drift(depth == Depth::Whole).await,
                _ => Ok(Seen::nothing("they are those of another revision")),
            };
            report(&mut checked, "objects", drift, "");
            // A size that cannot be told is taken for a small one.
            let few = effort == Effort::Exact || self.size().await.is_ok_and(tally::Size::is_small);
            let own = depth == Depth::Whole;
            let unread = || Ok(Seen::nothing(UNREAD));
            report(&mut checked, "locks", self.locks(own, few).await, "");
            report(&mut checked, "holders", if few { self.strays(own).await } else { unread() }, "");
            report(&mut checked, "times", self.times(own, few).await, "");
            report(&mut checked, "orphans", if few { self.orphans().await } else { unread() }, "");
            report(&mut checked, "rows", self.rows(few).await, "");
            let triggers = if is_read_only {
                Ok(Seen::nothing("what they do is tried, which takes writing"))
            } else {
                self.triggers().await
            };
            let remedy = "what a trigger refuses, no worker can take either: see the message";
            report(&mut checked, "triggers", triggers, remedy);
            report(&mut checked, "numbers", self.numbers().await, "");
        } else {
            for what in ["privileges", "objects", "locks", "holders", "times", "orphans", "rows", "triggers", "numbers"]
            {
                let why = "the schema is not one that this version can look at".to_owned();
                checked.push(Check::new(what, CheckStatus::Skipped { why }));
            }
        }
        checked
    }

    async fn connection(&self) -> Findings {
        self.reach(Duration::ZERO).await?;
        let row = sqlx::query!(
            r#"
select
  current_setting('server_version') as "version!",
  current_user::text as "role!",
  current_database()::text as "database!"
"#
        )
        .fetch_one(self.database.schema.on(&self.database.db()))
        .await
        .map_err(|e| self.database.error("connect", e))?;
        let seen = Seen::fine(format!("PostgreSQL {}, database {:?}, role {:?}", row.version, row.database, row.role));
        Ok(match self.database.why_read_only().await? {
            Some((what, remedy)) => seen.problem(format!("jobs cannot be added or run here: {what}"), remedy),
            None => seen,
        })
    }

    async fn revision(&self) -> Result<(Seen, Depth), Error> {
        let migrate = "run `backfill migrate` (or client.migrate() in a deployment step)";
        let schema = self.database.schema.name();
        match migrate::check(self).await {
            Ok(revision) => {
                let seen = Seen::fine(format!("schema {schema:?} is at revision {revision}"));
                if revision <= REVISION {
                    return Ok((seen, Depth::Whole));
                }
                // None of the new ones is marked as breaking.
                let seen = seen.problem(
                    format!("schema {schema:?} is at revision {revision}, and this version knows revisions up to {REVISION}"),
                    "if a newer graphile-worker on Node has brought it there: upgrade backfill, which works meanwhile; if the crate \
                     graphile_worker has, whose revisions above 18 are its own: begin with a schema of its own \
                     (docs/coming-from.md)",
                );
                Ok((seen, Depth::Tables))
            }
            Err(error) if error.is_missing() => {
                let others = self.schemas().await.unwrap_or_default();
                let meant = did_you_mean(schema, others.iter().map(String::as_str));
                let problem = format!("the schema {schema:?} has no job queue in it, or not all of it");
                Ok((Seen::fine("").problem(problem, format!("{migrate}{meant}")), Depth::None))
            }
            // Node's, as it is meant to be.
            Err(Error::NotReady { reason: Unready::OwnObjectsMissing, .. }) => {
                let detail = format!(
                    "schema {schema:?} is at revision {REVISION}, without the objects of backfill's own, which a worker makes when                      it starts, and `backfill migrate`"
                );
                Ok((Seen::fine(detail), Depth::WithoutOwn))
            }
            Err(Error::NotReady { reason: Unready::Outdated { found: revision, needed }, .. }) => {
                let problem =
                    format!("the schema {schema:?} is at revision {revision}, and this version needs {needed}");
                let remedy = format!(
                    "if Node's workers use it, upgrade them to graphile-worker 0.18 first: older ones stop when a newer                      revision arrives, and do not start again; then {migrate}"
                );
                let depth = if revision >= FIRST_WITH_PRIVATE_TABLES { Depth::Tables } else { Depth::None };
                Ok((Seen::fine("").problem(problem, remedy), depth))
            }
            Err(error @ Error::Storage { .. }) => Err(error),
            // With what is missing, not with all that may be.
            Err(error @ Error::MissingPrivilege { .. }) => {
                let told =
                    self.database.explained::<()>(Need::Read, Err(error)).await.err().map(|error| error.to_string());
                Ok((Seen::fine("").problem(told.unwrap_or_default(), "see the message"), Depth::None))
            }
            Err(error) => Ok((Seen::fine("").problem(error.to_string(), "see the message"), Depth::None)),
        }
    }
}

fn report(checked: &mut Vec<Check>, what: &'static str, findings: Findings, remedy: &str) {
    let statuses = match findings {
        Ok(Seen { detail, nothing: true, .. }) => vec![CheckStatus::Skipped { why: detail }],
        Ok(Seen { detail, problems, .. }) if problems.is_empty() => vec![CheckStatus::Fine { detail }],
        Ok(Seen { problems, .. }) => {
            problems.into_iter().map(|(problem, remedy)| CheckStatus::Found { problem, remedy }).collect()
        }
        Err(error) if !remedy.is_empty() => {
            vec![CheckStatus::Found { problem: error.to_string(), remedy: remedy.to_owned() }]
        }
        Err(error) => vec![CheckStatus::Skipped { why: error.to_string() }],
    };
    checked.extend(statuses.into_iter().map(|status| Check::new(what, status)));
}
