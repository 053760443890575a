//! What this role may do where the jobs are, asked of the server.
//!
//! The server's messages are in whatever language the server speaks, so nothing is read out of them: a SQLSTATE says that
//! something is missing, and the catalog says what.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Database;
use super::schema::quote;
use crate::error::{Error, Result};

/// How long the questions behind an error may take.
const MAX_WAIT: Duration = Duration::from_secs(5);

/// What somebody wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::postgres) enum Need {
    /// Look at jobs.
    Read,
    /// Add jobs.
    Add,
    /// Run and manage jobs.
    Work,
    /// Use messages.
    Messages,
    /// Create or upgrade the schema.
    Migrate,
}

impl Need {
    /// What it takes: tables, and what is done to them.
    fn privileges(self) -> &'static [(&'static str, &'static [&'static str])] {
        const ALL: &[&str] = &["select", "insert", "update", "delete"];
        match self {
            Self::Read => &[
                ("migrations", &["select"]),
                ("_private_jobs", &["select"]),
                ("_private_job_queues", &["select"]),
                ("_private_tasks", &["select"]),
                ("_private_known_crontabs", &["select"]),
                ("backfill_migrations", &["select"]),
                ("backfill_pools", &["select"]),
            ],
            Self::Add => &[
                ("_private_jobs", &["select", "insert", "update"]),
                ("_private_job_queues", &["select", "insert"]),
                ("_private_tasks", &["select", "insert"]),
            ],
            Self::Work => &[
                ("_private_jobs", ALL),
                ("_private_job_queues", ALL),
                ("_private_tasks", ALL),
                ("_private_known_crontabs", ALL),
                ("backfill_pools", ALL),
                ("backfill_imports", &["select", "insert", "delete"]),
            ],
            Self::Messages => &[
                ("migrations", &["select"]),
                ("backfill_migrations", &["select"]),
                ("backfill_message_migrations", &["select"]),
                ("_private_jobs", ALL),
                ("_private_job_queues", ALL),
                ("_private_tasks", ALL),
                ("backfill_pools", ALL),
                ("backfill_documents", ALL),
                ("backfill_events", ALL),
                ("backfill_turns", ALL),
                // Of a sequence.
                ("backfill_document_versions", &["update"]),
            ],
            Self::Migrate => &[],
        }
    }
}

/// A table of which row security keeps rows from this role.
#[derive(Debug)]
pub(in crate::postgres) struct HiddenRows {
    pub(in crate::postgres) table: String,
    /// What finds no row: select, update, delete.
    pub(in crate::postgres) commands: Vec<String>,
    /// Whether this role owns the table, and is subject to row security because that is forced.
    forced: bool,
    role: String,
    schema: String,
}

impl HiddenRows {
    pub(in crate::postgres) fn remedy(&self) -> String {
        let Self { table, schema, .. } = self;
        let role = quote(&self.role);
        if self.forced {
            return format!(
                "alter table {schema}.\"{table}\" no force row level security; or alter role {role} bypassrls; and reconnect"
            );
        }
        format!(
            "alter role {role} bypassrls; and reconnect; or make it a member of the role that owns the schema, or create a policy \
             for it; see \"Least privilege\" in DATABASE.md"
        )
    }
}

impl Database {
    /// The tables of which row security hides every row from this role, from being read or from the changes that it was granted:
    /// what is asked of them is answered as if they were empty.
    pub(in crate::postgres) async fn hidden_rows(&self) -> Result<Vec<HiddenRows>> {
        // Row security is active for everybody but superusers, roles that bypass it, and, unless it is forced, the owner. Then a row
        // is seen if a permissive policy for the command lets it. (What the policy's expression says of each row is the user's.)
        let rows = sqlx::query!(
            r#"
select
  rel.relname::text as "table!",
  array_agg(command.name order by command.place) as "commands!",
  pg_has_role(rel.relowner, 'usage') as "owned!",
  current_user::text as "role!"
from pg_class rel
join (values (1, 'select', 'r'), (2, 'update', 'w'), (3, 'delete', 'd')) as command (place, name, letter)
  on command.name = 'select' or has_table_privilege(rel.oid, command.name)
where rel.relnamespace = (select oid from pg_namespace where nspname = $1)
  and rel.relname in (
    '_private_jobs', '_private_job_queues', '_private_tasks', '_private_known_crontabs', 'backfill_pools'
  )
  and row_security_active(rel.oid)
  and not exists (
    select from pg_policy policy
    where policy.polrelid = rel.oid
      and policy.polpermissive
      and policy.polcmd::text in ('*', command.letter)
      and exists (
        select from unnest(policy.polroles) as member (role)
        -- Zero stands for everybody.
        where case when member.role = 0 then true else pg_has_role(member.role, 'usage') end
      )
  )
group by rel.oid, rel.relname, rel.relowner
order by 1
"#,
            self.schema.name(),
        )
        .fetch_all(self.schema.on(&self.db()))
        .await
        .map_err(|e| self.error("look at row security", e))?;
        let hidden = rows.into_iter().map(|row| HiddenRows {
            table: row.table,
            commands: row.commands,
            forced: row.owned,
            role: row.role,
            schema: self.schema.quoted().to_owned(),
        });
        Ok(hidden.collect())
    }

    /// Fails if whoever needs this would find nothing, or change nothing, because row security hides the rows.
    pub(in crate::postgres) async fn refuse_hidden(&self, need: Need) -> Result<()> {
        let needed = |hidden: &HiddenRows| {
            let hides = |wanted: &[&str]| hidden.commands.iter().any(|command| wanted.contains(&command.as_str()));
            match (hidden.table.as_str(), need) {
                ("_private_jobs" | "backfill_pools", Need::Work) => true,
                ("_private_job_queues", Need::Work) => hides(&["select", "update"]),
                ("_private_jobs" | "_private_job_queues" | "_private_tasks", _) => hides(&["select"]),
                _ => false,
            }
        };
        match self.hidden_rows().await?.into_iter().find(needed) {
            Some(hidden) => Err(Error::HiddenRows { remedy: hidden.remedy(), table: hidden.table, role: hidden.role }),
            None => Ok(()),
        }
    }

    /// An error with what the server, asked now, says of it: which privileges are missing, and why it may only be read.
    pub(in crate::postgres) async fn explained<T>(&self, need: Need, result: Result<T>) -> Result<T> {
        let error = match result {
            Err(error @ (Error::MissingPrivilege { .. } | Error::ReadOnly { .. })) => error,
            result => return result,
        };
        // If it cannot be asked, it is told as it was.
        Err(match error {
            Error::MissingPrivilege { grant, source } => {
                let asked = tokio::time::timeout(MAX_WAIT, self.what_is_missing(need)).await;
                Error::MissingPrivilege { grant: asked.ok().and_then(Result::ok).unwrap_or(grant), source }
            }
            Error::ReadOnly { action, why, source } => {
                let asked = tokio::time::timeout(MAX_WAIT, self.why_read_only()).await;
                let found = asked.ok().and_then(Result::ok).flatten();
                let why = found.map_or(why, |(what, remedy)| format!("{what}; {remedy}"));
                Error::ReadOnly { action, why, source }
            }
            other => other,
        })
    }

    /// Why this place may only be read, and what to do about it; or nothing, if it may be written.
    pub(in crate::postgres) async fn why_read_only(&self) -> Result<Option<(String, String)>> {
        // As a plain statement, whose transaction begins as the role's own do.
        let row = sqlx::query!(
            r#"
select
  pg_is_in_recovery() as "standby!",
  current_setting('transaction_read_only')::boolean as "read_only!",
  current_database()::text as "database!",
  current_user::text as "role!",
  (select setting.source from pg_settings setting where setting.name = 'default_transaction_read_only') as source
"#
        )
        .fetch_one(self.schema.on(&self.db()))
        .await
        .map_err(|e| self.error("ask whether the server may be written", e))?;
        let (database, role) = (quote(&row.database), quote(&row.role));
        if row.standby {
            return Ok(Some((
                "the server is a standby, which only repeats what its primary does".to_owned(),
                "give the address of the primary, or promote this server".to_owned(),
            )));
        }
        if !row.read_only {
            return Ok(None);
        }
        let remedy = match row.source.as_deref() {
            Some("database") => format!("alter database {database} reset default_transaction_read_only"),
            Some("user") => format!("alter role {role} reset default_transaction_read_only"),
            Some("database user") => {
                format!("alter role {role} in database {database} reset default_transaction_read_only")
            }
            Some("global") => "alter role all reset default_transaction_read_only".to_owned(),
            Some("client") => "take it out of the address, or of PGOPTIONS".to_owned(),
            _ => "alter system reset default_transaction_read_only; select pg_reload_conf(); or take it out of the server's \
                  configuration"
                .to_owned(),
        };
        let what = format!(
            "transactions of the role {role} in the database {database} are read-only by default (default_transaction_read_only)"
        );
        Ok(Some((what, format!("{remedy}; and reconnect"))))
    }

    /// The statements that give this role what it lacks.
    async fn what_is_missing(&self, need: Need) -> Result<String> {
        let fail = |e| self.error("look at privileges", e);
        let schema = self.schema.quoted();
        let place = sqlx::query!(
            r#"
select
  current_user::text as "role!",
  current_database()::text as "database!",
  has_database_privilege(current_database(), 'create') as "may_create!",
  has_schema_privilege(schema.oid, 'usage') as usage,
  has_schema_privilege(schema.oid, 'create') as "create"
from (values (1)) as one
left join pg_namespace schema on schema.nspname = $1
"#,
            self.schema.name(),
        )
        .fetch_one(self.schema.on(&self.db()))
        .await
        .map_err(fail)?;
        let role = quote(&place.role);
        let (mut missing, mut notes) = (Vec::new(), Vec::new());
        match (place.usage, place.create) {
            (None, _) if !place.may_create => {
                return Ok(format!("grant create on database {} to {role};", quote(&place.database)));
            }
            (Some(usage), Some(create)) => {
                let create = create || need != Need::Migrate;
                let wanted: Vec<&str> = [("usage", usage), ("create", create)]
                    .iter()
                    .filter(|(_, has)| !has)
                    .map(|(name, _)| *name)
                    .collect();
                if !wanted.is_empty() {
                    missing.push(format!("grant {} on schema {schema} to {role};", wanted.join(", ")));
                }
            }
            _ => {}
        }
        if need == Need::Migrate {
            let owners: BTreeSet<String> = self.owners().await?.iter().map(|owner| quote(owner)).collect();
            missing.extend(owners.iter().map(|owner| format!("grant {owner} to {role};")));
            if !owners.is_empty() {
                notes.push("or migrate as the role that owns the schema".to_owned());
            }
        } else {
            missing.extend(self.missing_on_tables(need, &role).await?);
        }
        if let Some(hidden) = self.hidden_rows().await?.first() {
            missing.push(format!("alter role {role} bypassrls;"));
            notes.push("and reconnect".to_owned());
            notes.push(if hidden.forced {
                format!(
                    "or, since row security is forced: alter table {schema}.\"{}\" no force row level security",
                    hidden.table
                )
            } else {
                "or create policies for it".to_owned()
            });
        }
        if missing.is_empty() {
            return Ok(format!(
                "what gives {role} that; nothing is missing in the schema {schema} itself, so a trigger, a function or a policy of \
                 your own may want it"
            ));
        }
        if !notes.is_empty() {
            missing.push(format!("-- {}", notes.join("; ")));
        }
        Ok(missing.join(" "))
    }

    /// Who owns what a migration changes, but for this role.
    async fn owners(&self) -> Result<Vec<String>> {
        sqlx::query_scalar!(
            r#"
select pg_get_userbyid(object.owner)::text as "owner!"
from (
  select rel.relowner from pg_class rel
  where rel.relnamespace = (select oid from pg_namespace where nspname = $1) and rel.relkind in ('r', 'v', 'S')
  union
  select fn.proowner from pg_proc fn where fn.pronamespace = (select oid from pg_namespace where nspname = $1)
) as object (owner)
where not pg_has_role(object.owner, 'usage')
"#,
            self.schema.name(),
        )
        .fetch_all(self.schema.on(&self.db()))
        .await
        .map_err(|e| self.error("look at privileges", e))
    }

    async fn missing_on_tables(&self, need: Need, role: &str) -> Result<Vec<String>> {
        let fail = |e| self.error("look at privileges", e);
        let schema = self.schema.quoted();
        let pairs =
            need.privileges().iter().flat_map(|(table, wanted)| wanted.iter().map(move |wanted| (*table, *wanted)));
        let (tables, wanted): (Vec<&str>, Vec<&str>) = pairs.unzip();
        let rows = sqlx::query!(
            r#"
select rel.relname::text as "table!", string_agg(pair.wanted, ', ' order by pair.place) as "missing!"
from unnest($2::text[], $3::text[]) with ordinality as pair (relation, wanted, place)
join pg_class rel
  on rel.relnamespace = (select oid from pg_namespace where nspname = $1) and rel.relname = pair.relation::name
where not has_table_privilege(rel.oid, pair.wanted)
group by rel.relname
order by 1
"#,
            self.schema.name(),
            &tables as &[&str],
            &wanted as &[&str],
        )
        .fetch_all(self.schema.on(&self.db()))
        .await
        .map_err(fail)?;
        let mut missing: Vec<String> = rows
            .into_iter()
            .map(|row| format!("grant {} on {schema}.\"{}\" to {role};", row.missing, row.table))
            .collect();
        let functions = sqlx::query_scalar!(
            r#"
select count(*) as "count!"
from pg_proc fn
where fn.pronamespace = (select oid from pg_namespace where nspname = $1) and not has_function_privilege(fn.oid, 'execute')
"#,
            self.schema.name(),
        )
        .fetch_one(self.schema.on(&self.db()))
        .await
        .map_err(fail)?;
        if functions > 0 && need != Need::Read {
            missing.push(format!("grant execute on all functions in schema {schema} to {role};"));
        }
        Ok(missing)
    }
}
