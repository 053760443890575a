//! The SQL functions, ours against Node's: the same calls on both schemas give the same rows, errors and notifications.

mod support;

use std::time::Duration;

use backfill::BackfillClient;
use sqlx::postgres::{PgListener, PgPoolOptions};
use sqlx::{AssertSqlSafe, PgPool};
use support::{assert_same_lines, database, node, sql};

/// The two schemas, in two databases: notification channels do not name the schema.
struct Pair {
    node: Side,
    ours: Side,
}

/// What of a row is compared. Node's `add_jobs` numbers a batch's jobs, tasks and queues in whatever order its plan
/// produces; ours in the order of the input.
#[derive(Clone, Copy)]
enum Rows {
    Whole,
    WithoutNumbers,
}

struct Side {
    pool: PgPool,
    notices: PgListener,
}

const S: &str = "graphile_worker";

impl Pair {
    async fn new() -> Self {
        let (_, node_url) = database().await;
        node::migrate("graphile-worker", &node_url, S).await;
        let (our_pool, our_url) = database().await;
        BackfillClient::with_pool_and_schema(our_pool, S).await.expect("migrate");
        Self { node: Side::new(&node_url).await, ours: Side::new(&our_url).await }
    }

    /// Runs a statement on both sides and compares everything that can be seen of it.
    async fn same(&mut self, statement: &str) -> String {
        self.compare(statement, Rows::Whole).await
    }

    async fn compare(&mut self, statement: &str, rows: Rows) -> String {
        let theirs = self.node.observe(statement, rows).await;
        let ours = self.ours.observe(statement, rows).await;
        println!("{statement}");
        assert_same_lines(&ours, &theirs);
        ours
    }

    async fn set(&mut self, statement: &str) {
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

fn spec(values: &str) -> String {
    format!("row({values})::S.job_spec")
}

#[tokio::test]
async fn add_job_with_defaults_and_with_everything() {
    let mut pair = Pair::new().await;
    assert!(pair.same("select * from S.add_job('a')").await.contains("notify {\"r\":…,\"count\":1}"));
    pair.same("select * from S.add_job('a', null, null, null, null, null, null, null, null)").await;
    pair.same(
        r#"select * from S.add_job(identifier := 'b', payload := '{"z":1, "a" : [1.50]}', queue_name := 'q', run_at := '2100-01-01T00:00:00Z',
           max_attempts := 3, job_key := 'k', priority := -7, flags := array['y','x','y'], job_key_mode := 'preserve_run_at')"#,
    )
    .await;
    pair.same("select * from S.add_job('', '{}', '')").await;
    pair.same("select * from S.add_job('a', 'null'::json)").await;
    pair.same("select * from S.add_job('a', null::json)").await;
    pair.same("select * from S.add_job('a', flags := '{}')").await;
    pair.same("select * from S.add_job('a', job_key_mode := 'nonsense')").await;
    pair.same("select * from S.add_job('a', job_key := 'k2', job_key_mode := null)").await;
    pair.same("select * from S.add_job(repeat('ü', 128), queue_name := repeat('é', 128), job_key := repeat('ñ', 512))")
        .await;
    pair.same("select count(*) as n from S.add_job('a')").await;
}

#[tokio::test]
async fn add_job_under_a_key_in_every_state_and_mode() {
    let mut pair = Pair::new().await;
    let states = [
        ("waiting", "true"),
        (
            "retrying",
            "update S._private_jobs set attempts = 2, last_error = 'e', run_at = '2100-01-01T00:00:00Z' where key = 'k'",
        ),
        ("dead", "update S._private_jobs set attempts = max_attempts, last_error = 'e' where key = 'k'"),
        ("past its maximum", "update S._private_jobs set attempts = max_attempts + 3 where key = 'k'"),
        (
            "locked",
            "update S._private_jobs set attempts = 1, locked_at = '2001-01-01T00:00:00Z', locked_by = 'w' where key = 'k'",
        ),
        (
            "locked at present",
            "update S._private_jobs set attempts = 1, locked_at = '2100-01-01T00:00:00Z', locked_by = 'w' where key = 'k'",
        ),
    ];
    for (state, reach) in states {
        for mode in ["'replace'", "'preserve_run_at'", "'unsafe_dedupe'", "null"] {
            pair.set("truncate S._private_jobs restart identity").await;
            pair.set(
                "select S.add_job('a', '[1, {\"b\":1,\"a\":2}]', 'q1', '2100-01-01T00:00:00Z', 5, 'k', 9, array['f'])",
            )
            .await;
            if reach != "true" {
                pair.set(reach).await;
            }
            for call in [
                format!("select * from S.add_job('b', '[3]', job_key := 'k', job_key_mode := {mode})"),
                format!(
                    "select * from S.add_job('b', '{{\"o\":1}}', 'q2', '2101-01-01T00:00:00Z', 2, 'k', 1, array['g'], {mode})"
                ),
            ] {
                let seen = pair.same(&call).await;
                assert!(!seen.starts_with("error"), "{state} {mode}: {seen}");
            }
        }
    }
    pair.same("select * from S.add_job('b', job_key := 'k', job_key_mode := 'nonsense')").await;
}

#[tokio::test]
async fn add_jobs_in_batches() {
    let mut pair = Pair::new().await;
    let many: Vec<String> = (0..60)
        .map(|n| {
            spec(&format!(
                "'task{}', '{n}', {}, null, {n} + 1, {}, {}, array['f{}']",
                n % 7,
                if n % 3 == 0 { format!("'q{}'", n % 4) } else { "null".to_owned() },
                if n % 5 == 0 { format!("'k{n}'") } else { "null".to_owned() },
                n - 30,
                n % 3
            ))
        })
        .collect();
    let call = |flag: &str| format!("select * from S.add_jobs(array[{}], {flag})", many.join(","));
    assert!(pair.compare(&call("false"), Rows::WithoutNumbers).await.contains("\"count\":60"));
    pair.compare(&call("true"), Rows::WithoutNumbers).await;
    pair.set(
        "update S._private_jobs set locked_at = '2100-01-01T00:00:00Z', locked_by = 'w' where key in ('k0', 'k10')",
    )
    .await;
    pair.set("update S._private_jobs set attempts = max_attempts where key in ('k5', 'k15')").await;
    pair.set("update S._private_jobs set attempts = 1, run_at = '2100-01-01T00:00:00Z' where key in ('k20', 'k25')")
        .await;
    pair.compare(&call("true"), Rows::WithoutNumbers).await;
    pair.compare(&call("null"), Rows::WithoutNumbers).await;
    pair.compare(
        &format!("select * from S.add_jobs(array[{}])", spec("'n', null, null, null, null, null, null, null")),
        Rows::WithoutNumbers,
    )
    .await;
}

#[tokio::test]
async fn add_jobs_with_nothing_still_notifies() {
    let mut pair = Pair::new().await;
    assert!(pair.same("select * from S.add_jobs('{}'::S.job_spec[])").await.contains("notify \"\""));
    assert!(pair.same("select * from S.add_jobs(null::S.job_spec[])").await.contains("notify \"\""));
}

#[tokio::test]
async fn add_jobs_takes_arrays_of_any_shape() {
    let mut pair = Pair::new().await;
    let one = |n: i32| spec(&format!("'a', '{n}', null, null, null, 'k{n}', null, null"));
    let two = |n: i32| spec(&format!("'a', '{n}', 'q', null, null, null, null, null"));
    let pairs = format!("array[{}, {}]", one(1), two(2));
    for specs in [
        format!("('[0:1]=' || {pairs}::text)::S.job_spec[]"),
        format!("('[5:6]=' || {pairs}::text)::S.job_spec[]"),
        format!("('[-7:-6]=' || {pairs}::text)::S.job_spec[]"),
        format!("array[[{}, {}, {}], [{}, {}, {}]]", one(1), two(2), one(3), two(4), one(5), two(6)),
        format!("array[array[{}]]", one(9)),
        format!("({pairs})[2:2]"),
        format!("array[{}, null]", two(1)),
        "array[null::S.job_spec]".to_owned(),
    ] {
        let seen = pair.compare(&format!("select * from S.add_jobs({specs})"), Rows::WithoutNumbers).await;
        assert!(!seen.starts_with("nothing"), "{seen}");
    }
}

#[tokio::test]
async fn add_jobs_stores_a_batch_of_any_size_in_time_that_grows_with_it() {
    let pool = support::client().await;
    // Where each spec costs more the larger the batch is, this takes several times the timeout of all tests.
    let call = "select count(*) || ' ' || count(distinct job.id) from S.add_jobs((
          select array_agg(row('a', '{}'::json, null, null, null, case when n % 2 = 0 then 'k' || n end, null, null)::S.job_spec)
          from generate_series(1, 150000) as n
        )) as job";
    assert_eq!(support::soon("the batch is stored", support::ask(&pool.1, &pool.2, call)).await, "150000 150000");
}

/// What a trigger does to new jobs that is called `t`.
const TRIGGERS: [(&str, &str); 7] = [
    ("drops the row", "return null;"),
    ("changes the key", "new.key := new.key || '-' || new.priority; return new;"),
    ("takes the key away", "new.key := null; return new;"),
    ("gives a key", "new.key := coalesce(new.key, 'given'); return new;"),
    ("locks the row", "new.locked_at := now(); new.locked_by := 'w'; return new;"),
    ("makes the job dead", "new.attempts := new.max_attempts; return new;"),
    ("drops some rows", "if new.key = 'k1' then return null; end if; return new;"),
];

#[tokio::test]
async fn what_a_trigger_makes_of_a_job_never_keeps_a_call_from_ending() {
    let mut pair = Pair::new().await;
    for (what, body) in TRIGGERS {
        for event in ["insert", "insert or update"] {
            println!("a trigger that {what} before {event}");
            pair.set(&format!(
                "truncate S._private_jobs restart identity;
                 create or replace function S.t() returns trigger language plpgsql as $$ begin {body} end $$;
                 drop trigger if exists t on S._private_jobs;
                 create trigger t before {event} on S._private_jobs for each row execute function S.t()"
            ))
            .await;
            let both = |n: i32| {
                let keyed = spec(&format!("'a', '{n}', 'q', null, null, 'k{n}', {n}, null"));
                let plain = spec(&format!("'a', '{n}', null, null, null, null, {n}, null"));
                format!("select * from S.add_jobs(array[{keyed}, {plain}])")
            };
            for call in [
                "select * from S.add_job('a', job_key := 'k')".to_owned(),
                "select * from S.add_job('a', job_key := 'k', job_key_mode := 'preserve_run_at')".to_owned(),
                "select * from S.add_job('a', job_key := 'k', job_key_mode := 'unsafe_dedupe')".to_owned(),
                "select * from S.add_job('a')".to_owned(),
                both(1),
                both(1),
                both(2),
            ] {
                let compared = pair.compare(&call, Rows::WithoutNumbers);
                support::soon(what, compared).await;
            }
        }
    }
}

#[tokio::test]
async fn bad_input_gives_the_same_errors() {
    let mut pair = Pair::new().await;
    let calls = [
        ("23514", "select * from S.add_job(repeat('x', 129))".to_owned()),
        ("23502", "select * from S.add_job(null)".to_owned()),
        ("23514", "select * from S.add_job('a', queue_name := repeat('x', 129))".to_owned()),
        ("23514", "select * from S.add_job('a', job_key := '')".to_owned()),
        ("23514", "select * from S.add_job('a', job_key := repeat('x', 513))".to_owned()),
        ("23514", "select * from S.add_job('a', max_attempts := 0)".to_owned()),
        ("22003", "select * from S.add_job('a', max_attempts := 32768)".to_owned()),
        ("22003", "select * from S.add_job('a', priority := -32769)".to_owned()),
        ("22023", "select * from S.add_job('a', flags := array['x', null])".to_owned()),
        ("GWBKM", "select * from S.add_job('a', job_key := 'k', job_key_mode := 'nonsense')".to_owned()),
        ("23514", "select * from S.add_job('a', job_key := '', job_key_mode := 'unsafe_dedupe')".to_owned()),
        (
            "22003",
            "select * from S.add_job('a', priority := 99999, job_key := 'k', job_key_mode := 'unsafe_dedupe')"
                .to_owned(),
        ),
        ("21000", {
            let one = spec("'a', null, null, null, null, 'k', null, null");
            format!("select * from S.add_jobs(array[{one}, {one}])")
        }),
        ("23514", format!("select * from S.add_jobs(array[{}])", spec("'a', null, null, null, 0, null, null, null"))),
        ("22003", "select * from S.reschedule_jobs(array[1::bigint], priority := 40000)".to_owned()),
    ];
    for (code, call) in calls {
        pair.set("truncate S._private_jobs restart identity").await;
        pair.set("select S.add_job('one')").await;
        let seen = pair.same(&call).await;
        assert!(seen.starts_with(&format!("error {code}")), "{call}: {seen}");
    }
    // Joining goes through jsonb, which cannot hold a NUL.
    pair.set(r#"select S.add_job('a', '["\u0000"]', job_key := 'k')"#).await;
    assert!(pair.same(r"select * from S.add_job('a', '[1]', job_key := 'k')").await.starts_with("error 22P05"));
}

#[tokio::test]
async fn administrative_functions_on_jobs_in_every_state() {
    let mut pair = Pair::new().await;
    let calls = [
        "select * from S.complete_jobs(array[1,2,3,4,5,6,99]::bigint[])",
        "select * from S.complete_jobs('{}')",
        "select * from S.complete_jobs(null)",
        "select * from S.permanently_fail_jobs(array[1,2,3,4,5,6,99]::bigint[])",
        "select * from S.permanently_fail_jobs(array[1,2,3,4,5,6,99]::bigint[], 'because')",
        "select * from S.permanently_fail_jobs(array[1]::bigint[], '')",
        "select * from S.reschedule_jobs(array[1,2,3,4,5,6,99]::bigint[], run_at := '2100-01-01T00:00:00Z')",
        "select * from S.reschedule_jobs(array[1,2,3,4,5,6,99]::bigint[], null, 0, 0, 9)",
        "select * from S.reschedule_jobs(array[1,2]::bigint[], attempts := -5)",
        "select * from S.reschedule_jobs(array[1,2]::bigint[])",
        "select * from S.remove_job('k1')",
        "select * from S.remove_job('k2')",
        "select * from S.remove_job('k3')",
        "select * from S.remove_job('k4')",
        "select * from S.remove_job('nobody')",
        "select * from S.remove_job(null)",
        "select S.force_unlock_workers(array['w1', 'nobody'])::text as t",
        "select S.force_unlock_workers('{}')::text as t",
        "select S.force_unlock_workers(null)::text as t",
        "select * from S.jobs",
    ];
    for call in calls {
        pair.set(
            "truncate S._private_jobs restart identity;
             select S.add_job('a', job_key := 'k1', priority := 4);
             select S.add_job('a', job_key := 'k2', queue_name := 'q1');
             select S.add_job('a', job_key := 'k3', queue_name := 'q2');
             select S.add_job('a', job_key := 'k4');
             select S.add_job('a');
             select S.add_job('a', queue_name := 'q3');
             update S._private_jobs set attempts = 1, locked_at = '2100-01-01T00:00:00Z', locked_by = 'w1' where id = 2;
             update S._private_jobs set attempts = 1, locked_at = '2001-01-01T00:00:00Z', locked_by = 'w2' where id = 3;
             update S._private_jobs set attempts = max_attempts, last_error = 'e' where id = 4;
             update S._private_jobs set attempts = 3, last_error = 'e' where id = 5;
             update S._private_job_queues set locked_at = '2100-01-01T00:00:00Z', locked_by = 'w1' where queue_name = 'q1';
             update S._private_job_queues set locked_at = '2001-01-01T00:00:00Z', locked_by = 'w2' where queue_name = 'q2'",
        )
        .await;
        pair.same(call).await;
    }
}

/// Several hundred random calls in a row, each of which meets whatever the ones before have left.
#[tokio::test]
async fn random_calls_in_a_row_never_differ() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("SEED={seed} repeats this run");
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut pair = Pair::new().await;
    for _ in 0..400 {
        let mut pick = |of: &[&str]| of[rng.usize(..of.len())].to_owned();
        let task = pick(&["'a'", "'b'", "'c'", "'ü'"]);
        let payload = pick(&["null", "'{}'", "'[1]'", "'[2,{\"b\":1,\"a\":1}]'", "'\"text\"'", "'null'"]);
        let queue = pick(&["null", "null", "'q1'", "'q2'", "''"]);
        let run_at = pick(&["null", "'2001-01-01T00:00:00Z'", "'2100-01-01T00:00:00Z'"]);
        let max = pick(&["null", "1", "3", "0"]);
        let key = pick(&["null", "'k1'", "'k2'", "'k3'", "'k4'"]);
        let priority = pick(&["null", "0", "-5", "99"]);
        let flags = pick(&["null", "'{}'", "array['x']", "array['y','x']"]);
        let mode = pick(&["'replace'", "'preserve_run_at'", "'unsafe_dedupe'", "null", "'other'"]);
        // Jobs are named by what they are: a call that fails burns numbers in whatever order its plan has.
        let jobs = format!(
            "array(select id from S._private_jobs where task_id in (select id from S._private_tasks where identifier = {task}))"
        );
        let call = match rng.u8(..12) {
            0..=4 => format!(
                "select * from S.add_job({task}, {payload}, {queue}, {run_at}, {max}, {key}, {priority}, {flags}, {mode})"
            ),
            5..=6 => {
                let one = spec(&format!("{task}, {payload}, {queue}, {run_at}, {max}, {key}, {priority}, {flags}"));
                let two = spec(&format!("'d', {payload}, {queue}, {run_at}, 2, 'k1', {priority}, {flags}"));
                format!("select * from S.add_jobs(array[{one}, {two}], {})", mode == "'preserve_run_at'")
            }
            7 => format!("select * from S.remove_job({key})"),
            8 => format!("select * from S.complete_jobs({jobs})"),
            9 => format!("select * from S.permanently_fail_jobs({jobs}, {payload})"),
            10 => format!("select * from S.reschedule_jobs({jobs}, {run_at}, {priority}, 0, {max})"),
            _ => {
                let lock = "update S._private_jobs set attempts = attempts + 1, locked_by = 'w', locked_at =";
                pair.set(&format!("{lock} '2100-01-01T00:00:00Z' where key in ('k1', 'k3') and is_available")).await;
                "select S.force_unlock_workers(array[]::text[])::text as t".to_owned()
            }
        };
        pair.compare(&call, Rows::WithoutNumbers).await;
    }
}

/// What is under a key while the same key is being claimed: the rows that the call answers, and what is stored.
async fn added_beside_a_claim(setup: &str, call: &str) -> (String, String) {
    let (_, pool, schema) = support::client().await;
    sql(&pool, &schema, setup).await;
    let mut claim = pool.begin().await.expect("begin");
    let mark = format!("update \"{schema}\"._private_jobs set locked_at = now(), locked_by = 'w', attempts = 1");
    sqlx::query(AssertSqlSafe(mark)).execute(&mut *claim).await.expect("claim");
    let adding = {
        let (pool, schema) = (pool.clone(), schema.clone());
        let call =
            format!("select string_agg(coalesce(key, '-') || payload, ' ' order by payload::text) from ({call}) as t");
        tokio::spawn(async move { support::ask(&pool, &schema, &call).await })
    };
    support::until("the call waits for the row", || async {
        let waiting =
            format!("select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query like '%{schema}%'");
        support::ask(&pool, &schema, &waiting).await == "1"
    })
    .await;
    claim.commit().await.expect("commit");
    let answered = support::soon("the call ends", adding).await.expect("no panic");
    let rows = "select string_agg(coalesce(key, '-') || payload || case when is_available then '' else '!' end, ' ' order by payload::text) from S._private_jobs";
    (answered, support::ask(&pool, &schema, rows).await)
}

#[tokio::test]
async fn no_job_of_a_batch_is_lost_to_a_claim_of_one_key() {
    let setup = "select S.add_job('a', '1', job_key := 'k')";
    let keyed = spec("'a', '2', null, null, null, 'k', null, null");
    let plain = spec("'a', '3', null, null, null, null, null, null");
    let other = spec("'a', '4', null, null, null, 'l', null, null");
    for specs in [
        format!("array[{keyed}, {plain}]"),
        format!("array[{plain}, {keyed}]"),
        format!("('[4:5]=' || array[{plain}, {keyed}]::text)::S.job_spec[]"),
        format!("array[[{plain}], [{keyed}]]"),
    ] {
        let seen = added_beside_a_claim(setup, &format!("select * from S.add_jobs({specs})")).await;
        assert_eq!(seen, ("k2 -3".to_owned(), "-1! k2 -3".to_owned()), "{specs}");
    }
    let specs = format!("array[{other}, {keyed}, {plain}]");
    let seen = added_beside_a_claim(setup, &format!("select * from S.add_jobs({specs})")).await;
    assert_eq!(seen, ("k2 -3 l4".to_owned(), "-1! k2 -3 l4".to_owned()));
    // Also where a trigger could drop rows, but did not.
    let trigger = "create function S.t() returns trigger language plpgsql as 'begin return new; end';
        create trigger t before insert on S._private_jobs for each row execute function S.t();";
    let seen = added_beside_a_claim(&format!("{trigger} {setup}"), &format!("select * from S.add_jobs({specs})")).await;
    assert_eq!(seen, ("k2 -3 l4".to_owned(), "-1! k2 -3 l4".to_owned()));
}

/// The race in which Node's function answers a row of nulls and stores nothing.
#[tokio::test]
async fn add_job_survives_a_claim_between_its_two_looks() {
    let mut pair = Pair::new().await;
    pair.set("select S.add_job('a', job_key := 'k')").await;
    let url = support::url_of(
        &sqlx::query_scalar::<_, String>("select current_database()").fetch_one(&pair.ours.pool).await.expect("name"),
    );
    let other = PgPoolOptions::new().max_connections(2).connect(&url).await.expect("connect");
    let mut claim = other.begin().await.expect("begin");
    sqlx::query("update graphile_worker._private_jobs set locked_at = now(), locked_by = 'w', attempts = 1")
        .execute(&mut *claim)
        .await
        .expect("claim");
    let adding = pair.ours.pool.clone();
    let added = tokio::spawn(async move {
        sqlx::query_scalar::<_, i64>("select id from graphile_worker.add_job('a', '\"new\"', job_key := 'k')")
            .fetch_one(&adding)
            .await
    });
    support::until("the call waits for the row", || async {
        let waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query like '%add_job(%' and datname = current_database()";
        sqlx::query_scalar::<_, i64>(waiting).fetch_one(&other).await.expect("activity") == 1
    })
    .await;
    claim.commit().await.expect("commit");
    let id = support::soon("the call ends", added).await.expect("no panic").expect("a row, not nulls");
    let seen =
        support::ask(&other, S, "select id || coalesce(key, '-') || attempts from S._private_jobs order by id").await;
    assert_eq!(seen, format!("1-25;{id}k0"));
}
