//! A check-up: what is wrong with a schema, its server, and the way to it, and what to do about it.
//!
//! Nothing is changed. The comparison of objects builds the schema anew under another name in a transaction that is rolled
//! back, so it is right for any version of PostgreSQL.
//!
//! | file | what it looks at |
//! | --- | --- |
//! | `drift` | tables, indexes and functions that are not as this version would make them |
//! | `health` | locks that nobody holds, dead rows, who holds vacuum back, numbers that run out, the clock |
//! | `reach` | privileges, and whether notifications arrive |

mod drift;
mod health;
mod reach;

use std::time::Duration;

use super::{PostgresStorage, REVISION, migrate};
use crate::error::Error;
use crate::storage::{Checked, Verdict};

/// What a check says: nothing wrong, or each thing that is. An error means that it could not look.
type Findings = Result<Seen, Error>;

struct Seen {
    detail: String,
    problems: Vec<(String, String)>,
}

impl Seen {
    fn fine(detail: impl Into<String>) -> Self {
        Self { detail: detail.into(), problems: Vec::new() }
    }

    fn problem(mut self, problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        self.problems.push((problem.into(), remedy.into()));
        self
    }
}

/// The remedy where `LISTEN` does not work.
const POLL: &str = "give workers an address without a pooler in transaction mode, or let them poll (`backfill worker \
                    --no-listen`, WorkerBuilder::listen(false))";

impl PostgresStorage {
    /// The schema need not be there.
    pub(super) async fn look_at_everything(&self) -> Vec<Checked> {
        let mut checked = Vec::new();
        let connected = self.connection().await;
        let reachable = connected.is_ok();
        report(&mut checked, "connection", connected, "check the address, the password, and that the server runs");
        if !reachable {
            return checked;
        }
        report(&mut checked, "clock", self.clock().await, "");
        let revision = self.revision().await;
        let usable = revision.as_ref().is_ok_and(|seen| seen.problems.is_empty());
        report(&mut checked, "revision", revision, "");
        report(&mut checked, "notifications", self.notifications().await, POLL);
        report(&mut checked, "vacuum", self.vacuum_horizon().await, "");
        if usable {
            report(&mut checked, "privileges", self.privileges().await, "");
            report(&mut checked, "objects", self.drift().await, "");
            report(&mut checked, "locks", self.locks().await, "");
            report(&mut checked, "orphans", self.orphans().await, "");
            report(&mut checked, "rows", self.rows().await, "");
            report(&mut checked, "numbers", self.numbers().await, "");
        } else {
            for what in ["privileges", "objects", "locks", "orphans", "rows", "numbers"] {
                let why = "the schema is not at this version's revision".to_owned();
                checked.push(Checked::new(what, Verdict::Skipped { why }));
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
        .fetch_one(self.schema.on(&self.db()))
        .await
        .map_err(|e| self.error("connect", e))?;
        Ok(Seen::fine(format!("PostgreSQL {}, database {:?}, role {:?}", row.version, row.database, row.role)))
    }

    async fn revision(&self) -> Findings {
        let migrate = "run `backfill migrate` (or client.migrate() in a deployment step)";
        match migrate::check(self).await {
            Ok(revision) => {
                let schema = self.schema.name();
                let seen = Seen::fine(format!("schema {schema:?} is at revision {revision}"));
                if revision <= REVISION {
                    return Ok(seen);
                }
                // None of the new ones is marked as breaking.
                Ok(seen.problem(
                    format!("schema {schema:?} is at revision {revision}, and this version knows revisions up to {REVISION}"),
                    "if a newer graphile-worker on Node has brought it there: upgrade backfill, which works meanwhile; if the crate \
                     graphile_worker has, whose revisions above 18 are its own: begin with a schema of its own \
                     (docs/coming-from.md)",
                ))
            }
            Err(error) => {
                let remedy = match &error {
                    Error::SchemaMissing { .. } | Error::SchemaOutdated { .. } | Error::OwnObjectsMissing { .. } => {
                        migrate
                    }
                    Error::Database { .. } => return Err(error),
                    _ => "see the message",
                };
                Ok(Seen::fine("").problem(error.to_string(), remedy))
            }
        }
    }
}

fn report(checked: &mut Vec<Checked>, what: &'static str, findings: Findings, remedy: &str) {
    let verdicts = match findings {
        Ok(Seen { detail, problems }) if problems.is_empty() => vec![Verdict::Fine { detail }],
        Ok(Seen { problems, .. }) => {
            problems.into_iter().map(|(problem, remedy)| Verdict::Found { problem, remedy }).collect()
        }
        Err(error) if !remedy.is_empty() => {
            vec![Verdict::Found { problem: error.to_string(), remedy: remedy.to_owned() }]
        }
        Err(error) => vec![Verdict::Skipped { why: error.to_string() }],
    };
    checked.extend(verdicts.into_iter().map(|verdict| Checked::new(what, verdict)));
}
