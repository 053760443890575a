//! What is there.

use sqlx::PgConnection;

use super::super::PostgresStorage;
use crate::error::Result;

/// What is there.
#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, not a state")]
pub(super) struct Found {
    pub(super) server_version: i32,
    pub(super) server_version_text: String,
    pub(super) schema: bool,
    pub(super) ledger: bool,
    /// Whether the ledger has marks. (Of one without rows it is not known.)
    pub(super) breaking_column: bool,
    pub(super) own_ledger: bool,
    /// Whether a jobs table is there, under its new or its old name.
    pub(super) jobs: bool,
    /// The highest revision in the ledger.
    pub(super) revision: Option<i32>,
    /// The highest breaking revision in the ledger.
    pub(super) breaking: Option<i32>,
    /// How many of our own migrations have been applied.
    pub(super) own: i32,
    pub(super) messages_ledger: bool,
    /// How many of the migrations of messages have been applied.
    pub(super) messages: i32,
    /// Whether the function that claims works on another schema: this one was renamed, or is a copy.
    pub(super) claims_elsewhere: bool,
    /// What everybody relies on at a revision that we can work with, and is not there.
    pub(super) missing: Vec<String>,
}

/// What everybody relies on.
pub(super) const TABLES: [&str; 5] =
    ["_private_jobs", "_private_job_queues", "_private_tasks", "_private_known_crontabs", "backfill_pools"];
pub(super) const VIEWS: [&str; 1] = ["jobs"];
pub(in crate::postgres) const FUNCTIONS: [&str; 8] = [
    "add_job",
    "add_jobs",
    "complete_jobs",
    "permanently_fail_jobs",
    "reschedule_jobs",
    "remove_job",
    "force_unlock_workers",
    "backfill_claim",
];

/// The same of messages, in schemas that have them.
pub(in crate::postgres) const MESSAGE_FUNCTIONS: [&str; 4] =
    ["backfill_take", "backfill_end_leases", "backfill_depths", "backfill_peek"];

/// Looks at everything that decides what is to be done. Where nothing is to be done, that is at nearly every start, it takes three
/// statements.
pub(super) async fn look(storage: &PostgresStorage, conn: &mut PgConnection) -> Result<Found> {
    let fail = |e| storage.database.error("look at the schema", e);
    let named = |wanted: &[&str]| wanted.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let relations =
        [&TABLES[..], &VIEWS, &["migrations", "backfill_migrations", "backfill_message_migrations"]].concat();
    let catalog = sqlx::query!(
        r#"
select
  current_setting('server_version_num')::integer as "server_version!",
  current_setting('server_version') as "server_version_text!",
  current_setting('enable_nestloop')::boolean as "nests!",
  schema.oid is not null as "schema!",
  array(
    select rel.relname::text from pg_catalog.pg_class rel
    where rel.relnamespace = schema.oid and rel.relname = any ($2::text[]::name[])
  ) as "relations!",
  array(
    select distinct fn.proname::text from pg_catalog.pg_proc fn
    where fn.pronamespace = schema.oid and fn.proname = any ($3::text[]::name[])
  ) as "functions!",
  coalesce(
    (
      select position($4 in fn.prosrc) = 0 from pg_catalog.pg_proc fn
      where fn.pronamespace = schema.oid and fn.proname = 'backfill_claim'
      limit 1
    ),
    false
  ) as "claims_elsewhere!"
from (values (1)) as one
left join pg_catalog.pg_namespace schema on schema.nspname = $1
"#,
        storage.database.schema.name(),
        &named(&relations),
        &named(&FUNCTIONS),
        &format!("{}._private_jobs", storage.database.schema.quoted()),
    )
    .fetch_one(storage.database.schema.on(&mut *conn))
    .await
    .map_err(fail)?;
    storage.database.isolation.learn_of_planner(catalog.nests);
    let has = |names: &[String], name: &str| names.iter().any(|there| there == name);
    let missing = |kind: &'static str, wanted: &'static [&'static str], there: &[String]| {
        let missing = wanted.iter().filter(|name| !has(there, name));
        missing.map(|name| format!("{kind} {name}")).collect::<Vec<_>>()
    };
    let mut found = Found {
        server_version: catalog.server_version,
        server_version_text: catalog.server_version_text,
        schema: catalog.schema,
        claims_elsewhere: catalog.claims_elsewhere,
        ledger: has(&catalog.relations, "migrations"),
        own_ledger: has(&catalog.relations, "backfill_migrations"),
        messages_ledger: has(&catalog.relations, "backfill_message_migrations"),
        jobs: ["jobs", "_private_jobs"].iter().any(|name| has(&catalog.relations, name)),
        missing: [
            missing("table", &TABLES, &catalog.relations),
            missing("view", &VIEWS, &catalog.relations),
            missing("function", &FUNCTIONS, &catalog.functions),
        ]
        .concat(),
        ..Found::default()
    };
    if found.ledger {
        // As JSON, because old ledgers have no such column.
        let ledger = sqlx::query!(
            r#"
select
  max(id) as revision,
  max(id) filter (where (to_jsonb(migrations) ->> 'breaking')::boolean) as breaking,
  coalesce(bool_and(to_jsonb(migrations) ? 'breaking'), false) as "breaking_column!"
from graphile_worker.migrations
"#
        )
        .fetch_one(storage.database.schema.on(&mut *conn))
        .await
        .map_err(fail)?;
        (found.revision, found.breaking, found.breaking_column) =
            (ledger.revision, ledger.breaking, ledger.breaking_column);
    }
    if found.own_ledger {
        found.own =
            sqlx::query_scalar!(r#"select coalesce(max(id), 0) as "own!" from graphile_worker.backfill_migrations"#)
                .fetch_one(storage.database.schema.on(&mut *conn))
                .await
                .map_err(fail)?;
    }
    if found.messages_ledger {
        found.messages = sqlx::query_scalar!(
            r#"select coalesce(max(id), 0) as "messages!" from graphile_worker.backfill_message_migrations"#
        )
        .fetch_one(storage.database.schema.on(conn))
        .await
        .map_err(fail)?;
    }
    Ok(found)
}
