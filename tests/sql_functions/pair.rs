//! The two schemas side by side: what is called on both, and all that can be seen of it.

use std::time::Duration;

use backfill::BackfillClient;
use sqlx::postgres::{PgListener, PgPoolOptions};
use sqlx::{AssertSqlSafe, PgPool};

use crate::support::{assert_same_lines, database, node, sql};

/// The two schemas, in two databases: notification channels do not name the schema.
pub struct Pair {
    pub node: Side,
    pub ours: Side,
}

/// What of a row is compared. Node's `add_jobs` numbers a batch's jobs, tasks and queues in whatever order its plan
/// produces; ours in the order of the input.
#[derive(Clone, Copy)]
pub enum Rows {
    Whole,
    WithoutNumbers,
}

pub struct Side {
    pub pool: PgPool,
    notices: PgListener,
}

pub const S: &str = "graphile_worker";

impl Pair {
    pub async fn new() -> Self {
        let (_, node_url) = database().await;
        node::migrate("graphile-worker", &node_url, S).await;
        let (our_pool, our_url) = database().await;
        BackfillClient::with_pool_and_schema(our_pool, S).await.expect("migrate");
        Self { node: Side::new(&node_url).await, ours: Side::new(&our_url).await }
    }

    /// Runs a statement on both sides and compares everything that can be seen of it.
    pub async fn same(&mut self, statement: &str) -> String {
        self.compare(statement, Rows::Whole).await
    }

    pub async fn compare(&mut self, statement: &str, rows: Rows) -> String {
        let theirs = self.node.observe(statement, rows).await;
        let ours = self.ours.observe(statement, rows).await;
        println!("{statement}");
        assert_same_lines(&ours, &theirs);
        ours
    }

    pub async fn set(&mut self, statement: &str) {
        sql(&self.node.pool, S, statement).await;
        sql(&self.ours.pool, S, statement).await;
    }
}

impl Side {
    async fn new(url: &str) -> Self {
        // One connection: `now()` of the call and of the look at the tables must be one transaction's.
        let pool = PgPoolOptions::new().max_connections(1).connect(url).await.expect("connect");
        let hearing = PgPoolOptions::new().max_connections(1).connect(url).await.expect("connect");
        let mut notices = PgListener::connect_with(&hearing).await.expect("listen");
        notices.listen_all(["jobs:insert", "end"]).await.expect("listen");
        Self { pool, notices }
    }

    async fn observe(&mut self, statement: &str, rows: Rows) -> String {
        let mut seen = self.call(statement, rows).await;
        // A tail of our own tells that every notification before it has arrived.
        sqlx::query("select pg_notify('end', '')").execute(&self.pool).await.expect("notify");
        loop {
            let notice = tokio::time::timeout(Duration::from_secs(20), self.notices.recv())
                .await
                .expect("in time")
                .expect("notice");
            if notice.channel() == "end" {
                return seen;
            }
            seen.push_str("\nnotify ");
            seen.push_str(&without_random(notice.payload()));
        }
    }

    /// The rows or the error, then the tables.
    async fn call(&self, statement: &str, rows: Rows) -> String {
        let shape = match rows {
            Rows::Whole => SHAPE.to_owned(),
            Rows::WithoutNumbers => format!("({SHAPE}) - '{{id,task_id,job_queue_id}}'::text[]"),
        };
        let mut tx = self.pool.begin().await.expect("begin");
        let statement = statement.replace("S.", "graphile_worker.");
        let rows = format!(
            "select coalesce(string_agg(line, E'\\n' order by line), 'nothing') from (select ({shape})::text as line from ({statement}) as t) as u"
        );
        let called = sqlx::query_scalar::<_, String>(AssertSqlSafe(rows)).fetch_one(&mut *tx).await;
        let mut seen = match called {
            Ok(rows) => rows,
            Err(error) => {
                tx.rollback().await.expect("rollback");
                let error = error.into_database_error().expect("an error of the database's");
                return format!(
                    "error {} {:?} {}",
                    error.code().unwrap_or_default(),
                    error.constraint(),
                    error.message()
                );
            }
        };
        for table in ["_private_jobs", "_private_job_queues", "_private_tasks"] {
            let look = format!(
                "select coalesce(string_agg(({shape})::text, E'\\n' order by ({shape})::text), 'empty') from {S}.{table} as t"
            );
            seen.extend(["\n", table, "\n"]);
            seen.push_str(
                &sqlx::query_scalar::<_, String>(AssertSqlSafe(look)).fetch_one(&mut *tx).await.expect("look"),
            );
        }
        tx.commit().await.expect("commit");
        seen
    }
}

/// A row as JSON, its payload as text, with moments told as "now", "past" or "future" (fixed ones as they are).
const SHAPE: &str = r"
  to_jsonb(t) - 'payload' || jsonb_build_object('payload', to_json(t)->>'payload') || coalesce((
    select jsonb_object_agg(key, case
      when value is null or value like '2%-01-01T00:00:00+00:00' then value
      when value::timestamptz = now() then 'now'
      when value::timestamptz < now() then 'past' else 'future' end)
    from jsonb_each_text(to_jsonb(t)) where key in ('run_at', 'created_at', 'updated_at', 'locked_at')
  ), '{}')";

fn without_random(payload: &str) -> String {
    match (payload.find(r#"{"r":"#), payload.find(r#","count""#)) {
        (Some(0), Some(end)) => {
            let random: f64 = payload[5..end].parse().expect("a number");
            assert!((0.0..1.0).contains(&random));
            format!("{{\"r\":…{}", &payload[end..])
        }
        _ => format!("{payload:?}"),
    }
}
