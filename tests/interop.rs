//! Rust and Node at work on one schema at once.

mod support;

use std::time::Duration;

use backfill::{BackfillClient, Error, JobContext, JobSpec, Priority, Worker, task_fn};
use sqlx::PgPool;
use support::{ask, database, node, soon, sql, until};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::Child;

#[derive(serde::Deserialize)]
struct Record {
    #[serde(default)]
    ms: u64,
}

/// Writes each start and end where Node's `record` task of tests/node/worker.mjs does.
async fn record(pool: PgPool, payload: Record, ctx: JobContext) -> Result<(), sqlx::Error> {
    let job = ctx.job();
    sqlx::query("insert into test.runs (job, queue, pool, side, began) values ($1, $2, $3, 'rust', clock_timestamp())")
        .bind(job.id.number())
        .bind(&job.queue)
        .bind(&job.locked_by)
        .execute(&pool)
        .await?;
    tokio::time::sleep(Duration::from_millis(payload.ms)).await;
    sqlx::query("update test.runs set ended = clock_timestamp() where job = $1 and side = 'rust'")
        .bind(job.id.number())
        .execute(&pool)
        .await?;
    Ok(())
}

async fn runs_table(pool: &PgPool) {
    sql(
        pool,
        "x",
        "create schema test; create table test.runs (job bigint, queue text, side text, pool text, began timestamptz, ended timestamptz)",
    )
    .await;
}

/// Waits until a Node script says `ready`.
async fn ready(child: &mut Child) {
    let mut lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
    soon("Node is ready", async {
        while let Some(line) = lines.next_line().await.expect("read") {
            if line == "ready" {
                return;
            }
        }
        panic!("Node ended before it was ready");
    })
    .await;
    // Keep reading, or Node would block on a full pipe.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
}

/// Closes the script's standard input, which is how it is told to end.
async fn end(mut child: Child) {
    drop(child.stdin.take());
    let status = soon("Node ends", child.wait()).await.expect("wait");
    assert!(status.success(), "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_jobs_from_each_side_run_once_each_on_three_rust_and_two_node_workers() {
    let (pool, url) = database().await;
    runs_table(&pool).await;
    let client = BackfillClient::new(&url).await.expect("migrate");

    // Half of the jobs are in serial queues, and both sides add to the same ones.
    let spec = |n: u32| {
        let spec = JobSpec::new("record", serde_json::json!({ "recorded": true, "ms": n % 3, "from": "rust", "n": n }));
        let spec = if n.is_multiple_of(2) { spec.serial_queue(format!("queue {}", n % 40)) } else { spec };
        if n % 10 == 1 { spec.key(format!("rust {n}")) } else { spec }.priority(if n.is_multiple_of(3) {
            Priority::FAST
        } else {
            Priority::BULK
        })
    };
    let add_rust = async { client.add_many((0..2000).map(spec)).await.expect("add") };
    let mut producer = node::start("producer.mjs", &[&url, "graphile_worker", "2000"]);
    let add_node = async {
        let mut text = String::new();
        producer.stdout.take().expect("stdout").read_to_string(&mut text).await.expect("read");
        assert_eq!(text.trim(), "added 2000");
    };
    let mut nodes = Vec::new();
    for _ in 0..2 {
        nodes.push(node::start("worker.mjs", &[&url, "graphile_worker", "5", "50"]));
    }
    let mut rusts = Vec::new();
    for _ in 0..3 {
        let runs = pool.clone();
        let client = BackfillClient::new(&url).await.expect("connect");
        let worker = Worker::builder(client)
            .task(task_fn("record", move |payload: Record, ctx: JobContext| record(runs.clone(), payload, ctx)))
            .concurrency(5)
            .poll_interval(Duration::from_millis(100))
            .handle_signals(false)
            .build()
            .expect("worker");
        rusts.push((worker.shutdown_handle(), tokio::spawn(async move { worker.run().await })));
    }
    tokio::join!(add_rust, add_node, async {
        for child in &mut nodes {
            ready(child).await;
        }
    });

    until("all jobs are done", || async { client.counts().await.expect("counts").total() == 0 }).await;
    for child in nodes {
        end(child).await;
    }
    for (handle, worker) in rusts {
        handle.shutdown();
        soon("a worker ends", worker).await.expect("no panic").expect("run");
    }

    let answer = |text: &'static str| ask(&pool, "graphile_worker", text);
    assert_eq!(
        answer("select count(*) || ' runs of ' || count(distinct job) from test.runs").await,
        "4000 runs of 4000"
    );
    let sides = answer("select side || count(distinct pool) from test.runs group by side order by side").await;
    assert_eq!(sides, "node2;rust3", "each of the five workers did some");
    let overlaps = "select count(*) from test.runs a join test.runs b on a.queue = b.queue and a.job < b.job
                    and a.began < b.ended and b.began < a.ended";
    assert_eq!(answer(overlaps).await, "0", "serial queues are serial across both sides");
    assert_eq!(answer("select count(*) from S._private_job_queues where locked_by is not null").await, "0");
    assert_eq!(answer("select count(distinct queue) from test.runs where queue is not null").await, "20");
    assert_eq!(answer("select count(*) from S.backfill_pools").await, "0");
}

#[tokio::test]
async fn node_runs_what_rust_adds_at_once_and_rust_runs_what_node_adds() {
    let (pool, url) = database().await;
    runs_table(&pool).await;
    let client = BackfillClient::new(&url).await.expect("migrate");
    // With an hour between polls, only a notification that Node understands can wake it.
    let mut worker = node::start("worker.mjs", &[&url, "graphile_worker", "1", "3600000"]);
    ready(&mut worker).await;
    // Node looks once when it starts; this job tells that it has.
    let payload = || serde_json::json!({ "recorded": true, "ü": [1.50, "\u{0}x"] });
    for n in 0..3 {
        client.add(JobSpec::new("record", payload()).key(format!("k{n}")).flag("f")).await.expect("add");
        until("Node has run it", || async { client.counts().await.expect("counts").total() == 0 }).await;
    }
    assert_eq!(ask(&pool, "x", "select side || count(*) from test.runs group by side").await, "node3");
    end(worker).await;

    let runs = pool.clone();
    let ours = Worker::builder(client.clone())
        .task(task_fn("record", move |payload: Record, ctx: JobContext| record(runs.clone(), payload, ctx)))
        .poll_interval(Duration::from_hours(1))
        .handle_signals(false)
        .build()
        .expect("worker");
    let handle = ours.shutdown_handle();
    let running = tokio::spawn(async move { ours.run().await });
    let mut producer = node::start("producer.mjs", &[&url, "graphile_worker", "100"]);
    soon("Node has added", producer.wait()).await.expect("wait");
    until("Rust has run them", || async { client.counts().await.expect("counts").total() == 0 }).await;
    handle.shutdown();
    assert_eq!(soon("the worker ends", running).await.expect("no panic").expect("run").completed, 100);
}

#[tokio::test]
async fn a_failure_of_either_side_is_retried_by_the_same_rule() {
    let (pool, url) = database().await;
    let client = BackfillClient::new(&url).await.expect("migrate");
    let worker = Worker::builder(client.clone())
        .task(task_fn("fail", |(): (), _: JobContext| async { Err::<(), _>("no") }))
        .build()
        .expect("worker");
    for side in ["node", "rust"] {
        let job = client.add(JobSpec::new("fail", ())).await.expect("add");
        for attempts in 1..=2_i16 {
            let before = chrono::Utc::now();
            if side == "node" {
                let output =
                    node::start("once.mjs", &[&url, "graphile_worker"]).wait_with_output().await.expect("wait");
                assert!(output.status.success());
            } else {
                worker.run_until_idle().await.expect("run");
            }
            let after = chrono::Utc::now();
            let left = client.job(job.id).await.expect("read").expect("the job");
            assert_eq!((left.attempts, left.last_error.as_deref()), (attempts, Some("no")), "{side}");
            assert_eq!((&left.locked_by, left.updated_at), (&None, job.updated_at), "{side}");
            // The failure was written at some moment in between, and the retry is exp(attempts) seconds after it.
            let wait =
                chrono::TimeDelta::from_std(Duration::from_secs_f64(f64::from(attempts).exp())).expect("seconds");
            let slack = chrono::TimeDelta::milliseconds(2);
            assert!(left.run_at >= before + wait - slack && left.run_at <= after + wait + slack, "{side}: {left:?}");
            sql(&pool, "graphile_worker", &format!("update S._private_jobs set run_at = now() where id = {}", job.id))
                .await;
        }
        client.complete(&[job.id]).await.expect("delete");
    }
}

#[tokio::test]
async fn forgetting_names_beside_enqueuers_of_both_sides_strands_no_job() {
    let (pool, url) = database().await;
    let client = BackfillClient::new(&url).await.expect("migrate");
    // Every job has a queue and a task name of its own, so that each add needs names which a cleanup would just forget.
    let mut producer = node::start("names.mjs", &[&url, "graphile_worker", "400"]);
    let adders: Vec<_> = (0..4)
        .map(|adder| {
            let client = client.clone();
            tokio::spawn(async move {
                for n in 0..100 {
                    let name = format!("name {}", (adder * 31 + n * 7) % 23);
                    client.add(JobSpec::new(name.as_str(), ()).serial_queue(name.as_str())).await.expect("add");
                    client
                        .add(JobSpec::new("brief", ()).key(name.as_str()).serial_queue(name.as_str()))
                        .await
                        .expect("add");
                    client.remove(&name).await.expect("remove");
                    client.add(JobSpec::new(format!("bare {name}"), ())).await.expect("add");
                }
            })
        })
        .collect();
    let mut rounds = 0;
    while adders.iter().any(|adder| !adder.is_finished()) || producer.try_wait().expect("wait").is_none() {
        let cleanup = backfill::Cleanup::new().queues().tasks(Vec::<String>::new());
        match client.cleanup(&cleanup).await {
            Ok(_) => rounds += 1,
            Err(Error::Storage { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert!(rounds > 0);
    for adder in adders {
        adder.await.expect("no add fails");
    }
    let stranded = "select count(*) from S._private_jobs job
        left join S._private_tasks task on task.id = job.task_id
        where task.id is null
          or (task.identifier not like 'bare %'
            and not exists (select from S._private_job_queues where id = job.job_queue_id))";
    assert_eq!(ask(&pool, "graphile_worker", stranded).await, "0");
    assert_eq!(ask(&pool, "graphile_worker", "select count(*) from S._private_jobs").await, "1200");
}
