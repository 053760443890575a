//! How long pages take among ten million jobs, and what the indexes for lists cost: `./scripts/bench admin`.
//!
//! Each page and request is asked for again and again by one client, and so is what the library counted before it could estimate (`exact`).
//! `BACKFILL_BENCH_JOBS` sets how many jobs there are (default: 10 000 000), `BACKFILL_BENCH_ROUNDS` how often each is asked (default: 20).

use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::Request;
use backfill::BackfillClient;
use backfill::postgres::ListIndex;
use backfill::search::Search;
use backfill::storage::{Effort, QueueList};
use backfill_admin::Admin;
use sqlx::PgPool;
use tower::ServiceExt;

const PAGES: [&str; 19] = [
    "/overview",
    "/jobs",
    "/jobs?q=state%3Adead",
    "/jobs?q=state%3Aretrying",
    "/jobs?q=state%3Arunning",
    "/jobs?q=state%3Ascheduled&order=claim",
    "/jobs?q=task%3Atask_7",
    "/jobs?q=queue%3A%22queue+77%22",
    "/jobs?q=payload.customer.id%3A4242",
    "/jobs?q=payload.nothing%3A1",
    "/jobs?q=error%3Arefused",
    "/jobs/{id}",
    "/queues",
    "/tasks",
    "/workers",
    "/crontabs",
    "/doctor",
    "/api/v1/jobs",
    "/api/v1/counts",
];

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// 200 tasks, 10 000 queues, three priorities, a fifth scheduled, a twentieth dead, a twentieth retrying, 300 held.
async fn fill(pool: &PgPool, jobs: u64) {
    for text in [
        "insert into graphile_worker._private_tasks (identifier) select 'task_' || n from generate_series(1, 200) n on conflict do nothing".to_owned(),
        "insert into graphile_worker._private_job_queues (queue_name) select 'queue ' || n from generate_series(1, 10000) n on conflict do nothing".to_owned(),
        format!(
            "insert into graphile_worker._private_jobs (task_id, job_queue_id, payload, priority, run_at, attempts, last_error)
             select (select min(id) from graphile_worker._private_tasks) + n % 200,
               case when n % 10 = 3 then (select min(id) from graphile_worker._private_job_queues) + n / 10 % 10000 end,
               json_build_object('customer', json_build_object('id', n % 100000, 'plan', 'free'), 'total', n % 977),
               case when n % 50 = 0 then -1 when n % 33 = 0 then 5 else 0 end,
               now() + case when n % 5 = 0 then 1 else -1 end * n % 86400 * interval '1 s',
               case when n % 20 = 7 then 25 when n % 20 = 11 then 3 else 0 end,
               case when n % 20 = 7 then 'connection refused by ' || n % 97 when n % 20 = 11 then 'timeout' end
             from generate_series(1, {jobs}) n"
        ),
        "update graphile_worker._private_jobs set locked_at = now(), locked_by = 'node' where attempts = 0 and id % 31111 = 0".to_owned(),
        "vacuum analyze graphile_worker._private_jobs".to_owned(),
    ] {
        sqlx::raw_sql(sqlx::AssertSqlSafe(text)).execute(pool).await.expect("fill");
    }
}

async fn get(router: &Router, path: &str) {
    let request = Request::get(path).body(Body::empty()).expect("a request");
    let response = router.clone().oneshot(request).await.expect("an answer");
    assert!(response.status().is_success(), "{path}: {}", response.status());
    to_bytes(response.into_body(), usize::MAX).await.expect("a body");
}

/// Prints the median, the 95th percentile and the longest, in ms.
async fn measure<F: Future<Output = ()>>(name: &str, rounds: u64, mut ask: impl FnMut() -> F) {
    let mut took = Vec::new();
    for _ in 0..rounds {
        let started = Instant::now();
        ask().await;
        took.push(started.elapsed());
    }
    took.sort_unstable();
    let at = |part: usize| took[(took.len() - 1) * part / 100];
    let ms = |length: Duration| format!("{:.1}", length.as_secs_f64() * 1_000.0);
    println!("| {name} | {} | {} | {} |", ms(at(50)), ms(at(95)), ms(at(100)));
}

/// Bytes of write-ahead log for a job that is added, claimed and deleted, without full pages.
async fn wal(pool: &PgPool) -> f64 {
    const JOBS: i32 = 60_000;
    let mut before = String::new();
    let mut after = String::new();
    for (place, text) in [
        "vacuum graphile_worker._private_jobs".to_owned(),
        "checkpoint".to_owned(),
        format!(
            "insert into graphile_worker._private_jobs (task_id, job_queue_id, payload)
             select (select min(id) from graphile_worker._private_tasks) + n % 20,
               (select min(id) from graphile_worker._private_job_queues) + n % 500, '{{}}' from generate_series(1, {JOBS}) n"
        ),
        "update graphile_worker._private_jobs set attempts = attempts + 1, locked_at = now(), locked_by = 'worker'".to_owned(),
        "delete from graphile_worker._private_jobs".to_owned(),
    ]
    .into_iter()
    .enumerate()
    {
        if place == 2 {
            before = sqlx::query_scalar("select pg_current_wal_lsn()::text").fetch_one(pool).await.expect("a position");
        }
        sqlx::raw_sql(sqlx::AssertSqlSafe(text)).execute(pool).await.expect("jobs");
        after = sqlx::query_scalar("select pg_current_wal_lsn()::text").fetch_one(pool).await.expect("a position");
    }
    let bytes: i64 = sqlx::query_scalar("select ($1::text::pg_lsn - $2::text::pg_lsn)::bigint")
        .bind(after)
        .bind(before)
        .fetch_one(pool)
        .await
        .expect("a difference");
    f64::from(i32::try_from(bytes).expect("a few megabytes")) / f64::from(JOBS)
}

#[tokio::main]
async fn main() {
    let url = std::env::var("BACKFILL_BENCH_DATABASE_URL").expect("run ./scripts/bench admin");
    let pool = PgPool::connect(&url).await.expect("the server");
    let client = BackfillClient::with_pool(pool.clone()).await.expect("migrate");
    let (jobs, rounds) = (number("BACKFILL_BENCH_JOBS", 10_000_000), number("BACKFILL_BENCH_ROUNDS", 20));

    println!(
        "\nWhat an index costs: bytes of write-ahead log for each job, full pages off.\n\n| index | bytes |\n| --- | ---: |"
    );
    fill(&pool, 0).await;
    sqlx::raw_sql("alter system set full_page_writes = off").execute(&pool).await.expect("set");
    sqlx::raw_sql("select pg_reload_conf()").execute(&pool).await.expect("reload");
    let drop = |name: &str| sqlx::AssertSqlSafe(format!("drop index graphile_worker.{name}"));
    for index in ListIndex::DEFAULT {
        sqlx::raw_sql(drop(index.name())).execute(&pool).await.expect("drop");
    }
    println!("| none | {:.0} |", wal(&pool).await);
    let postgres = client.postgres().expect("PostgreSQL");
    for index in ListIndex::ALL {
        postgres.build_index(index).await.expect("build");
        println!("| {index} | {:.0} |", wal(&pool).await);
        if !ListIndex::DEFAULT.contains(&index) {
            sqlx::raw_sql(drop(index.name())).execute(&pool).await.expect("drop");
        }
    }
    sqlx::raw_sql("alter system reset full_page_writes").execute(&pool).await.expect("reset");

    println!("\n{jobs} jobs; ms of {rounds} rounds by one client, after one that is not counted.\n");
    fill(&pool, jobs).await;
    println!("| before: every job is read | median | p95 | longest |\n| --- | ---: | ---: | ---: |");
    let inspect = client.storage().inspect().expect("it can be looked at");
    let few = rounds.min(3);
    measure("counts", few, || async { drop_(inspect.tally(Effort::Exact).await) }).await;
    measure("tasks", few, || async { drop_(inspect.tasks(Effort::Exact).await) }).await;
    measure("queues", few, || async { drop_(inspect.queues(&QueueList::all(Effort::Exact)).await) }).await;
    measure("workers", few, || async { drop_(inspect.workers(Effort::Exact).await) }).await;
    for query in ["state:running", "queue:\"queue 77\"", "payload.nothing:1"] {
        let search = Search::new(query.parse().expect(query)).limit(50);
        measure(query, few, || async { drop_(client.search(&search).await) }).await;
    }
    println!("\n| now | median | p95 | longest |\n| --- | ---: | ---: | ---: |");
    let router = Admin::new(client.clone()).open_to_everybody_who_gets_here().router();
    let id: i64 =
        sqlx::query_scalar("select min(id) from graphile_worker._private_jobs").fetch_one(&pool).await.expect("an id");
    for page in PAGES {
        let path = page.replace("{id}", &id.to_string());
        get(&router, &path).await;
        measure(page, rounds, || get(&router, &path)).await;
    }
    // What is kept for a moment is left out.
    measure("counts, looked up each time", rounds, || async { drop_(inspect.tally(Effort::Bounded).await) }).await;
    measure("tasks, looked up each time", rounds, || async { drop_(inspect.tasks(Effort::Bounded).await) }).await;
}

fn drop_<T>(answer: backfill::Result<T>) {
    answer.map(drop).expect("an answer");
}
