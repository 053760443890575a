//! Objects that are not as this version would make them.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::PgConnection;

use super::{Findings, Seen};
use crate::postgres::connection::isolation::begin;
use crate::postgres::{ListIndex, PostgresStorage, migrate};

/// The bodies that Node's 0.18.0 gives its functions at revision 20, as MD5 with the quoted schema replaced by `S`. Ours
/// differ, and either is right.
const NODES_BODIES: [(&str, &str); 7] = [
    ("add_job", "5ec9dae4bcb6067ef19cb29055be09fa"),
    ("add_jobs", "ad55ca3902951d675a4150431c24a5b2"),
    ("complete_jobs", "46951ec8b68704606c638b94629bffd6"),
    ("force_unlock_workers", "ac7ffbd59fb9ec58c96b1130fe1a160f"),
    ("permanently_fail_jobs", "aa35dd15766c5ff46b16aacd11087291"),
    ("remove_job", "a420ad54516912859b294dbcde375307"),
    ("reschedule_jobs", "f493e01081fbfe3c225f177dd0371bc4"),
];

/// What an object is: its kind, and its name (with its table's).
type Name = (String, String);

#[derive(PartialEq)]
struct Object {
    definition: String,
    /// The hash of a function's body.
    body: Option<String>,
    /// The schema, quoted, whose tables a function's body names first.
    names: Option<String>,
    /// Whether one that we did not make is worth telling: a column, an index or a trigger on one of our tables, but not a
    /// function or a table of the user's own.
    ours: bool,
}

impl PostgresStorage {
    /// `own` says whether our own objects should be there.
    pub(super) async fn drift(&self, own: bool) -> Findings {
        let fail = |e| self.database.error("compare the schema's objects (this needs the right to create a schema)", e);
        let scratch = Self::with_prepared_statements(
            self.database.pool.clone(),
            &format!("backfill_doctor_{:016x}", fastrand::u64(..)),
            // Nobody asks for this schema again.
            false,
        )?;
        let mut tx = begin(&self.database.db()).await.map_err(fail)?;
        let has_messages =
            sqlx::query_scalar!(r#"select to_regclass('graphile_worker.backfill_documents') is not null as "there!""#);
        let has_messages = has_messages.fetch_one(self.database.schema.on(&mut *tx)).await.map_err(fail)?;
        let scratch = if has_messages { scratch.with_messages() } else { scratch };
        migrate::create_anew(&scratch, &mut tx).await.map_err(fail)?;
        for index in ListIndex::ALL {
            sqlx::raw_sql(scratch.database.schema.script(&index.script(false)))
                .execute(&mut *tx)
                .await
                .map_err(fail)?;
        }
        let mut expected = objects(&scratch, &mut tx).await.map_err(fail)?;
        let mut found = objects(self, &mut tx).await.map_err(fail)?;
        tx.rollback().await.map_err(fail)?;
        if !own {
            // They are not there, or those of an earlier version.
            expected.retain(|(_, name), _| !name.contains("backfill_"));
            found.retain(|(_, name), _| !name.contains("backfill_"));
        }

        // Those that nobody has asked for need not be there.
        let is_asked_for =
            |name: &str| ListIndex::ALL.iter().any(|index| index.name() == name && !ListIndex::DEFAULT.contains(index));
        expected.retain(|name, _| found.contains_key(name) || !is_asked_for(&name.1));

        let mut seen = Seen::fine(format!("{} objects are as they should be", expected.len()));
        // What a schema was called before, its functions go on to call it.
        let quoted = self.database.schema.quoted();
        let name = self.database.schema.name();
        let renamed = |object: &Object| object.names.as_deref().is_some_and(|names| names != quoted && names != name);
        let former: BTreeSet<&str> =
            found.values().filter(|object| renamed(object)).filter_map(|object| object.names.as_deref()).collect();
        for former in &former {
            seen = seen.problem(
                format!(
                    "SQL functions of this schema work on the tables of {former}: it was renamed, or is a copy; what SQL and Node add \
                     goes astray, or fails"
                ),
                format!(
                    "rename it back (alter schema {quoted} rename to {former}), or have the functions made anew: delete from \
                     {quoted}.migrations where id = 20; delete from {quoted}.backfill_migrations where id >= 6; and then run `backfill migrate`"
                ),
            );
        }
        for ((kind, name), object) in &expected {
            let Some(actual) = found.get(&(kind.clone(), name.clone())) else {
                if ListIndex::DEFAULT.iter().any(|index| index.name() == name) {
                    seen = seen.problem(
                        format!("the {kind} {name} is missing, so lists and counts of such jobs read all jobs"),
                        "build it while others work: `backfill migrate --indexes`",
                    );
                    continue;
                }
                seen = seen.problem(
                    format!("the {kind} {name} is missing"),
                    format!("restore it from a backup; it is defined as: {}", object.definition),
                );
                continue;
            };
            if actual.definition != object.definition {
                seen = seen.problem(
                    format!("the {kind} {name} differs: it is {}", actual.definition),
                    format!("undo the change; it should be {}", object.definition),
                );
            } else if renamed(actual) {
                // That is told already.
            } else if actual.body.as_deref() == Some(migrate::EARLIER_ADD_JOBS) {
                seen = seen.problem(
                    format!(
                        "the {kind} {name} is an earlier version's, which loses jobs of some batches without an error"
                    ),
                    "run `backfill migrate` (or client.migrate() in a deployment step)",
                );
            } else if actual.body != object.body && !is_nodes(name, actual.body.as_deref()) {
                seen = seen.problem(
                    format!("the body of the {kind} {name} was changed"),
                    "restore it: run the migrations in a scratch database and copy the function from there",
                );
            }
        }
        let extra = found.iter().filter(|(name, object)| object.ours && !expected.contains_key(*name));
        for ((kind, name), object) in extra {
            if kind == "function" {
                seen = seen.problem(
                    format!(
                        "the function {name} is not part of the schema, and has the name of one that is: calls may mean either, and fail"
                    ),
                    format!("drop function {quoted}.{name}; and give yours another name, or another schema"),
                );
                continue;
            }
            seen = seen.problem(
                format!("the {kind} {name} is not part of the schema: {}", object.definition),
                "remove it: functions answer whole rows, later migrations alter these tables, and each index costs every write",
            );
        }
        Ok(seen)
    }
}

fn is_nodes(name: &str, body: Option<&str>) -> bool {
    let function = name.split('(').next().unwrap_or_default();
    NODES_BODIES.iter().any(|(known, hash)| *known == function && Some(*hash) == body)
}

async fn objects(storage: &PostgresStorage, conn: &mut PgConnection) -> Result<BTreeMap<Name, Object>, sqlx::Error> {
    let schema = storage.database.schema.name();
    let quoted = storage.database.schema.quoted();
    // Definitions do not name a schema that is on the path (but for the table of an index or a trigger).
    sqlx::query!("select set_config('search_path', $1, true)", quoted)
        .fetch_one(storage.database.schema.on(&mut *conn))
        .await?;
    let names: Vec<String> =
        migrate::FUNCTIONS.iter().chain(&migrate::MESSAGE_FUNCTIONS).map(|name| (*name).to_owned()).collect();
    let rows = sqlx::query!(
        r#"
with schema as (select oid from pg_namespace where nspname = $1),
rel as (select * from pg_class where relnamespace = (select oid from schema)),
ours as (
  select * from rel
  where relkind = 'r' and relname in (
    'migrations', '_private_jobs', '_private_job_queues', '_private_tasks', '_private_known_crontabs',
    'backfill_imports', 'backfill_migrations', 'backfill_pools',
    'backfill_documents', 'backfill_events', 'backfill_message_migrations', 'backfill_turns'
  )
)
select object.kind as "kind!", object.name as "name!", object.definition as "definition!", object.body, object.names, object.ours as "ours!"
from (
  select 'table' as kind, relname::text as name, format('row security %s, forced %s', relrowsecurity, relforcerowsecurity) as definition,
    null::text as body, null::text as names, false as ours
  from ours
  union all
  select 'sequence', relname::text, 'sequence', null, null, false from rel where relkind = 'S'
  union all
  select 'view', relname::text, pg_get_viewdef(oid), null, null, false from rel where relkind = 'v'
  union all
  select 'column', format('%s.%s', ours.relname, att.attname),
    concat(
      format_type(att.atttypid, att.atttypmod),
      case when att.attnotnull then ' not null' end,
      ' default ' || pg_get_expr(def.adbin, def.adrelid),
      case att.attidentity when 'a' then ' generated always as identity' when 'd' then ' generated by default as identity' end,
      case when att.attgenerated <> '' then ' stored' end
    ),
    null, null, true
  from ours
  join pg_attribute att on att.attrelid = ours.oid and att.attnum > 0 and not att.attisdropped
  left join pg_attrdef def on def.adrelid = ours.oid and def.adnum = att.attnum
  union all
  select 'constraint', format('%s on %s', con.conname, ours.relname), pg_get_constraintdef(con.oid), null, null, true
  from ours join pg_constraint con on con.conrelid = ours.oid
  union all
  select 'index', ind_rel.relname::text,
    pg_get_indexdef(ind.indexrelid) || case when ind.indisvalid then '' else ' (invalid)' end, null, null, true
  from ours join pg_index ind on ind.indrelid = ours.oid join pg_class ind_rel on ind_rel.oid = ind.indexrelid
  union all
  select 'trigger', format('%s on %s', tg.tgname, ours.relname), pg_get_triggerdef(tg.oid), null, null, true
  from ours join pg_trigger tg on tg.tgrelid = ours.oid and not tg.tgisinternal
  union all
  select 'function', format('%s(%s)', fn.proname, pg_get_function_identity_arguments(fn.oid)),
    format('arguments %s, returns %s, strict %s, security definer %s, %s', pg_get_function_arguments(fn.oid),
      pg_get_function_result(fn.oid), fn.proisstrict, fn.prosecdef, fn.provolatile),
    md5(replace(fn.prosrc, $2, 'S')),
    case when fn.proname = any ($3::text[]::name[]) then substring(fn.prosrc from '("(?:[^"]|"")+"|\w+)\._private_') end,
    -- Another one of a name that is called would be called in its place, or make each call ambiguous.
    fn.proname = any ($3::text[]::name[])
  from pg_proc fn where fn.pronamespace = (select oid from schema)
) as object
"#,
        schema,
        quoted,
        &names,
    )
    .fetch_all(storage.database.schema.on(conn))
    .await?;
    let plain = |text: String| {
        text.replacen(&format!(" ON {quoted}."), " ON ", 1).replacen(&format!(" ON {schema}."), " ON ", 1)
    };
    Ok(rows
        .into_iter()
        .map(|row| {
            let object = Object { definition: plain(row.definition), body: row.body, names: row.names, ours: row.ours };
            ((row.kind, row.name), object)
        })
        .collect())
}
