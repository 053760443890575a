//! What the statements of the hot path read, and how they are planned, at two million jobs: on servers of these tests' own, which
//! tell the plan of each statement that they run.

#[path = "plans/acts.rs"]
mod acts;
#[path = "faults/cluster.rs"]
#[allow(dead_code, clippy::format_push_string, reason = "the fault suite uses more of it, and allows it")]
mod cluster;
#[path = "plans/messages.rs"]
mod messages;
#[path = "plans/server.rs"]
mod server;

use acts::Actor;
use messages::Messenger;
use std::time::Duration;

use backfill::storage::ClaimRequest;
use backfill::{BackfillClient, JobContext, JobSpec, Worker, task_fn};
use server::{Database, Server};

/// How many jobs wait.
const MANY: usize = 2_000_000;

/// Settings of a role under which the planner, left alone, would choose otherwise.
const HOSTILE: &[(&str, &[&str])] = &[
    ("usual", &[]),
    ("scanless", &["enable_indexscan = off"]),
    ("onlyless", &["enable_indexonlyscan = off", "enable_bitmapscan = off"]),
    ("ssd", &["random_page_cost = 1.1", "work_mem = '64kB'", "effective_cache_size = '64GB'"]),
    ("custom", &["plan_cache_mode = force_custom_plan"]),
    ("generic", &["plan_cache_mode = force_generic_plan"]),
    ("nestless", &["enable_nestloop = off"]),
    ("dear", &["cpu_tuple_cost = 1", "cpu_index_tuple_cost = 1"]),
    (
        "parallel",
        &[
            "parallel_setup_cost = 0",
            "parallel_tuple_cost = 0",
            "min_parallel_table_scan_size = 0",
            "min_parallel_index_scan_size = 0",
            "max_parallel_workers_per_gather = 4",
        ],
    ),
];

/// An empty queue in a database of its own.
async fn database<'a>(server: &'a Server, name: &str) -> Database<'a> {
    let database = server.database(name).await;
    BackfillClient::new(&database.url()).await.expect("migrate");
    database
}

/// Fills the table of jobs: the values of columns are made of their number `n`.
async fn fill(database: &Database<'_>, jobs: usize, columns: &str, values: &str) {
    let insert = format!(
        "insert into graphile_worker._private_jobs (payload, {columns}) select '{{\"n\":1}}', {values}
         from generate_series(1, {jobs}) as n"
    );
    database.run(&insert).await;
}

/// Makes tasks, whose ids count from one.
async fn make_tasks(database: &Database<'_>, count: usize) -> Vec<String> {
    let insert = format!(
        "insert into graphile_worker._private_tasks (identifier) select 'task ' || n from generate_series(1, {count}) n"
    );
    database.run(&insert).await;
    (1..=count).map(|n| format!("task {n}")).collect()
}

const PAST: &str = "timestamptz '2026-01-01 00:00:00Z' + n * interval '1 microsecond'";

#[tokio::test]
async fn no_setting_and_no_statistics_make_a_hot_statement_read_more_than_it_takes() {
    let server = Server::start().await;
    let database = database(&server, "ready").await;
    let tasks = make_tasks(&database, 1).await;
    database.run("analyze").await;
    fill(&database, MANY, "task_id, run_at", &format!("1, {PAST}")).await;

    let url = database.role("before", &[]).await;
    Actor::new(&database, "with the statistics of an empty table", &url).await.live(&tasks, 20).await;
    database.run("vacuum analyze").await;
    for (role, settings) in HOSTILE {
        let url = database.role(role, settings).await;
        Actor::new(&database, &format!("as {role}"), &url).await.live(&tasks, 20).await;
    }
    database.run("truncate graphile_worker._private_jobs").await;
    fill(&database, 50_000, "task_id, run_at", &format!("1, {PAST}")).await;
    let url = database.role("after", &[]).await;
    Actor::new(&database, "with the statistics of two million jobs", &url).await.live(&tasks, 20).await;
}

#[tokio::test]
async fn two_million_jobs_of_the_future_cost_nothing() {
    let server = Server::start().await;
    let database = database(&server, "scheduled").await;
    let tasks = make_tasks(&database, 1).await;
    fill(&database, MANY, "task_id, run_at", "1, now() + interval '1 day' + n * interval '1 microsecond'").await;
    fill(&database, 2_000, "task_id, run_at", &format!("1, {PAST}")).await;
    let url = database.role("before", &[]).await;
    Actor::new(&database, "never analyzed", &url).await.live(&tasks, 20).await;
    database.run("vacuum analyze").await;
    let url = database.role("after", &[]).await;
    Actor::new(&database, "analyzed", &url).await.live(&tasks, 20).await;
}

#[tokio::test]
async fn a_job_is_handed_off_at_no_cost_that_grows_with_the_table() {
    let server = Server::start().await;
    let database = database(&server, "handed_off").await;
    make_tasks(&database, 1).await;
    fill(&database, MANY, "task_id, run_at", &format!("1, {PAST}")).await;
    let client = BackfillClient::new(&database.url()).await.expect("a client");
    let nothing = task_fn("handed_off", async |_: serde_json::Value, _: JobContext| {});
    let worker = Worker::builder(client).task(nothing).handle_signals(false).build().expect("a worker");
    let handle = worker.shutdown_handle();
    let worker = tokio::spawn(async move { worker.run().await });
    for (role, settings) in HOSTILE {
        let url = database.role(role, settings).await;
        let adder = Actor::new(&database, role, &url).await;
        // Each add is looked at, and it takes some until the worker is known and offers.
        let mut handed_off = 0;
        let all = async {
            while handed_off < 8 {
                let added = adder.add("that is handed off", vec![JobSpec::new("handed_off", ())]).await;
                handed_off += usize::from(added[0].locked_by.is_some());
            }
        };
        tokio::time::timeout(Duration::from_secs(60), all).await.expect("jobs are handed off");
    }
    handle.shutdown();
    worker.await.expect("no panic").expect("run");
}

#[tokio::test]
async fn a_thousand_tasks_cost_no_more_than_one_whatever_other_indexes_there_are() {
    let server = Server::start().await;
    let database = database(&server, "tasks").await;
    let tasks = make_tasks(&database, 1_000).await;
    fill(&database, MANY, "task_id, run_at", &format!("1 + n % 1000, {PAST}")).await;
    let url = database.role("before", &[]).await;
    Actor::new(&database, "never analyzed", &url).await.live(&tasks, 20).await;
    database.run("vacuum analyze").await;
    let url = database.role("after", &[]).await;
    Actor::new(&database, "analyzed", &url).await.live(&tasks, 20).await;
    database.run("create index on graphile_worker._private_jobs (task_id, priority, run_at)").await;
    database.run("vacuum analyze").await;
    for (role, settings) in HOSTILE {
        let url = database.role(role, settings).await;
        Actor::new(&database, &format!("with another index, as {role}"), &url).await.live(&tasks, 20).await;
    }
}

/// A thousand lines of two thousand messages, a thousand groups in one of them: by lines, what is taken is what is read, and workers read what they did
/// without messages.
#[tokio::test]
async fn what_is_done_with_messages_reads_what_it_takes_whatever_the_settings() {
    let server = Server::start().await;
    let database = database(&server, "messages").await;
    BackfillClient::builder().database_url(database.url()).messages(true).build().await.expect("migrate");
    let lines = make_tasks(&database, 1_000).await;
    database
        .run("insert into graphile_worker._private_job_queues (queue_name) select 'g' || n from generate_series(1, 1000) n")
        .await;
    fill(&database, MANY, "task_id, run_at", &format!("1 + n % 1000, {PAST}")).await;
    // Delayed ones of each, more urgent; and groups.
    fill(&database, 100_000, "task_id, priority, run_at", "1 + n % 1000, -1, now() + interval '1 day'").await;
    fill(&database, 100_000, "task_id, job_queue_id, priority, run_at", &format!("1, 1 + n % 1000, -2, {PAST}")).await;
    let url = database.role("before", &[]).await;
    let actor = Actor::new(&database, "never analyzed", &url).await;
    Messenger::new(&actor).live(&lines).await;
    database.run("vacuum analyze").await;
    for (role, settings) in HOSTILE {
        let url = database.role(role, settings).await;
        let actor = Actor::new(&database, &format!("as {role}"), &url).await;
        Messenger::new(&actor).live(&lines).await;
        actor.live(&lines, 20).await;
    }
}

/// The pages that a look may read that finds nothing new: the descent of a few indexes, and the catalog.
const PAGES_OF_A_LOOK: i64 = 150;

/// How many queues have names.
const NAMES: usize = 200_000;

#[tokio::test]
async fn two_million_jobs_of_held_queues_are_passed_by_in_bounded_looks() {
    let server = Server::start().await;
    let database = database(&server, "held").await;
    let tasks = make_tasks(&database, 2).await;
    let names = format!(
        "insert into graphile_worker._private_job_queues (queue_name, locked_at, locked_by)
         select 's' || n, case when n <= 2 then now() end, case when n <= 2 then 'x' end from generate_series(1, {NAMES}) n"
    );
    database.run(&names).await;
    fill(&database, MANY, "task_id, job_queue_id, run_at", &format!("1, 1 + n % 2, {PAST}")).await;
    // Behind them, of free queues, and of none.
    fill(&database, 10_000, "task_id, job_queue_id, priority, run_at", &format!("1, 3 + n % 5000, 1, {PAST}")).await;
    fill(&database, 10_000, "task_id, priority, run_at", &format!("1, 2, {PAST}")).await;
    for state in ["never analyzed", "analyzed"] {
        if state == "analyzed" {
            database.run("vacuum analyze").await;
        }
        let url = database.role(&state.replace(' ', "_"), &[]).await;
        let worker = Actor::new(&database, state, &url).await;
        let walk = worker.walk(&tasks[..1], 20, &[]).await;
        assert!(walk.of_queues > 0, "{state}: of the free queues nothing was reached in {} looks", walk.looks);
        worker.live_looking(&tasks[..1], 20, acts::LONGEST_LOOK).await;
        // Those of another task have nothing to do. A limit of some task makes each claim look carefully.
        let limits = [(tasks[1].clone(), 3)];
        worker.walk(&tasks[1..], 20, &[]).await;
        worker.waits(&tasks[1..], 20, &limits).await;
        worker.waits(&tasks[1..], 20, &[]).await;
    }
}

#[tokio::test]
async fn between_its_passes_an_idle_worker_reads_a_twentieth_of_what_they_read_however_often_it_looks() {
    let server = Server::start().await;
    let database = database(&server, "idle").await;
    let tasks = make_tasks(&database, 2).await;
    database.run("insert into graphile_worker._private_job_queues (queue_name, locked_at, locked_by) values ('q', now(), 'x')").await;
    // What is held, and what others run.
    fill(&database, 300_000, "task_id, job_queue_id, run_at", &format!("1, 1, {PAST}")).await;
    fill(&database, 300_000, "task_id, run_at", &format!("2, {PAST}")).await;
    database.run("vacuum analyze").await;
    let worker = Actor::new(&database, "idle", &database.role("idle", &[]).await).await;
    let limits = [(tasks[0].clone(), 3)];
    let claim = async |limits| {
        let request = ClaimRequest::new(&worker.worker, &tasks[..1], 20).run_length(4).limits(limits);
        let (claimed, act) = worker.claim_as(request).await;
        assert_eq!(claimed.jobs, []);
        let again = claimed.rescan_after.expect("something was passed by");
        (act.rows(), act.pages(), again)
    };
    let (mut rows, mut pages) = (0.0, 0);
    let pause = loop {
        let (its_rows, its_pages, again) = claim(&[]).await;
        (rows, pages) = (rows + its_rows, pages + its_pages);
        if !again.is_zero() {
            break again;
        }
    };
    assert!(rows > 600_000.0 && pages > 1_000, "a pass reads both lines: {rows} rows of {pages} pages");
    let (mut between, mut between_pages, mut looks, mut left) = (0.0, 0, 0, pause);
    for look in 0..100 {
        if look % 10 == 0 {
            // It is woken for what it cannot take either.
            fill(&database, 1, "task_id, job_queue_id, run_at", "1, 1, now()").await;
        }
        let (its_rows, its_pages, again) = claim(if look % 2 == 0 { &[] } else { &limits[..] }).await;
        if again.is_zero() || again > left {
            // The machine is so slow that it is time for the next pass.
            break;
        }
        (between, between_pages, looks, left) = (between + its_rows, between_pages + its_pages, looks + 1, again);
    }
    assert!(looks > 0 && between <= rows / 20.0, "{between} rows in {looks} looks between passes of {rows}");
    // These are read again and again, so they are at hand.
    assert!(between_pages <= looks * PAGES_OF_A_LOOK, "{between_pages} pages in {looks} looks");
}

#[tokio::test]
async fn two_million_jobs_of_other_tasks_are_passed_by_in_bounded_looks() {
    let server = Server::start().await;
    let database = database(&server, "others").await;
    let tasks = make_tasks(&database, 3).await;
    fill(&database, MANY, "task_id, run_at", &format!("1, {PAST}")).await;
    fill(&database, 10_000, "task_id, priority, run_at", &format!("2, 1, {PAST}")).await;
    for state in ["never analyzed", "analyzed"] {
        if state == "analyzed" {
            database.run("vacuum analyze").await;
        }
        let url = database.role(&state.replace(' ', "_"), &[]).await;
        let worker = Actor::new(&database, state, &url).await;
        let walk = worker.walk(&tasks[1..2], 20, &[]).await;
        assert!(walk.jobs > 0, "{state}: nothing was reached in {} looks", walk.looks);
        worker.live(&tasks[1..2], 20).await;
        worker.walk(&tasks[2..], 20, &[]).await;
        worker.waits(&tasks[2..], 20, &[]).await;
    }
}

#[tokio::test]
async fn dead_rows_that_a_snapshot_keeps_are_walked_over_once() {
    let server = Server::start().await;
    let database = database(&server, "dead").await;
    let tasks = make_tasks(&database, 2).await;
    fill(&database, MANY, "task_id, priority, run_at", &format!("1, (n % 4 - 2)::smallint, {PAST}")).await;
    database.run("vacuum analyze").await;
    let holder = sqlx::PgPool::connect(&database.url()).await.expect("connect");
    let mut snapshot = holder.begin_with("begin isolation level repeatable read").await.expect("begin");
    sqlx::query("select count(*) from graphile_worker._private_tasks")
        .execute(&mut *snapshot)
        .await
        .expect("a snapshot");
    let worker = Actor::new(&database, "dead", &database.role("dead", &[]).await).await;
    // It has seen that there are jobs of these priorities.
    worker.live(&tasks[..1], 3).await;
    // All of the first priority, and the first ones of the next.
    database
        .run(&format!(
            "delete from graphile_worker._private_jobs where id <= {MANY} / 2 and priority < 0 or priority < -1"
        ))
        .await;
    worker.passes_by_the_dead(&tasks[..1], 20).await;
    // Nothing is found by a worker of another task; its first look walks over the dead four times.
    worker.walk_over(250_000, &tasks[1..], 20, &[]).await;
    worker.waits(&tasks[1..], 20, &[]).await;
    snapshot.rollback().await.expect("rollback");
}

#[tokio::test]
async fn a_claim_that_finds_nothing_writes_nothing() {
    let server = Server::start().await;
    let database = database(&server, "nothing").await;
    let tasks = make_tasks(&database, 2).await;
    database.run("insert into graphile_worker._private_job_queues (queue_name, locked_at, locked_by) values ('q', now(), 'x')").await;
    fill(&database, 100, "task_id, run_at", &format!("1, {PAST}")).await;
    fill(&database, 100, "task_id, job_queue_id, run_at", &format!("2, 1, {PAST}")).await;
    database.run("vacuum analyze").await;
    let worker = Actor::new(&database, "nothing", &database.role("watched", &[]).await).await;
    let observer = sqlx::PgPool::connect(&database.url()).await.expect("connect");
    // Of a task that nobody knows, of one whose jobs stand in a held queue, and of one with nothing but a limit; each as a worker that
    // has just begun claims, and as one that knows its line.
    let limits = [(tasks[1].clone(), 0)];
    let nobodys = ["nobody's".to_owned()];
    for (tasks, limits) in [(&nobodys[..], &[][..]), (&tasks[1..], &[]), (&tasks[1..], &limits)] {
        // What is read for the first time may be pruned, which is written, but is no claim's.
        for full_scan in [true, false] {
            worker.claim_as(ClaimRequest::new(&worker.worker, tasks, 10).limits(limits).full_scan(full_scan)).await;
        }
        for full_scan in [false, true, false, false] {
            let before = server.written(&observer).await;
            let request =
                ClaimRequest::new(&worker.worker, tasks, 10).run_length(4).limits(limits).full_scan(full_scan);
            let (claimed, _) = worker.claim_as(request).await;
            assert_eq!(claimed.jobs, []);
            assert_eq!(server.written(&observer).await, before, "{tasks:?}, {limits:?}, full_scan: {full_scan}");
        }
    }
    // One that finds something does.
    let before = server.written(&observer).await;
    let (claimed, _) = worker.claim(&["task 1".to_owned()], 10).await;
    assert_eq!(claimed.jobs.len(), 10);
    assert_ne!(server.written(&observer).await, before);
}
