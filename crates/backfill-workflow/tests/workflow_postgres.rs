//! Workflows in PostgreSQL: what only a database has.
#![allow(clippy::unwrap_used, reason = "what fails here is a failed test")]

#[path = "../../../tests/support/mod.rs"]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use backfill::{BackfillClient, JobContext, JobSpec, Worker};
use backfill_workflow::postgres::PostgresStore;
use backfill_workflow::store::Store;
use backfill_workflow::testing::Crash;
use backfill_workflow::{Client, Ctx, Engine, EngineBuilder, Failure, PgTx, Queue, SqliteTx, Start, Status, Workflow};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use support::{database, soon, unique};

fn engine_of(pool: &PgPool) -> EngineBuilder {
    Engine::builder().postgres(pool.clone()).version("v1").poll_interval(Duration::from_millis(200))
}

/// A table of the user's own.
async fn with_accounts() -> (PgPool, String) {
    let (pool, url) = database().await;
    sqlx::raw_sql("create table accounts (name text primary key, balance int not null); insert into accounts values ('ada', 100), ('bob', 100)")
        .execute(&pool)
        .await
        .unwrap();
    (pool, url)
}

async fn balance(pool: &PgPool, name: &str) -> i32 {
    sqlx::query_scalar("select balance from accounts where name = $1").bind(name).fetch_one(pool).await.unwrap()
}

#[tokio::test]
async fn n_plain_steps_cost_n_plus_two_statements() {
    let (pool, _) = database().await;
    sqlx::raw_sql("create extension pg_stat_statements").execute(&pool).await.unwrap();
    // Nothing but the workflow is to be seen: no heartbeat, no sweep, no look at the queues.
    let quiet = Duration::from_secs(3600);
    let mut builder = engine_of(&pool).lease(quiet).listen(Vec::<String>::new());
    let workflow = builder.register("steps", |ctx: Ctx, steps: i32| async move {
        for number in 0..steps {
            ctx.step("step", || async { Ok(number) }).await?;
        }
        Ok::<_, Failure>(())
    });
    let engine = builder.launch().await.unwrap();
    engine.pause(true);
    soon(
        "a first run, which prepares the statements",
        engine.start(workflow, &2, Start::new()).await.unwrap().result(),
    )
    .await
    .unwrap();
    for steps in [0_i32, 1, 10, 100] {
        sqlx::raw_sql(
            "select pg_stat_statements_reset(0, (select oid from pg_database where datname = current_database()), 0)",
        )
        .execute(&pool)
        .await
        .unwrap();
        let handle = engine.start(workflow, &steps, Start::new()).await.unwrap();
        soon("the workflow", handle.result()).await.unwrap();
        // Sweeps of delays and deadlines go on beside it, and are not the workflow's.
        let calls: Vec<(String, i64)> = sqlx::query_as(
            "select query, calls from pg_stat_statements
             where dbid = (select oid from pg_database where datname = current_database())
               and (query ~ 'operation_outputs|workflow_input|workflow_output') and query !~ 'pg_stat_statements'",
        )
        .fetch_all(&pool)
        .await
        .unwrap();
        assert_eq!(
            calls.iter().map(|(_, calls)| calls).sum::<i64>(),
            i64::from(steps) + 2,
            "{steps} steps: {calls:#?}"
        );
        let others: Vec<String> = sqlx::query_scalar(
            "select query from pg_stat_statements
             where dbid = (select oid from pg_database where datname = current_database())
               and query !~ 'operation_outputs|workflow_input|workflow_output|pg_stat_statements|DELAYED|workflow_schedules|executors'",
        )
        .fetch_all(&pool)
        .await
        .unwrap();
        assert_eq!(others, Vec::<String>::new(), "nothing else is asked, not even `begin`");
    }
}

#[tokio::test]
async fn a_transactions_rows_and_its_record_are_both_or_neither() {
    let (pool, _) = with_accounts().await;
    let mut builder = engine_of(&pool);
    let workflow = builder.register("transfer", |ctx: Ctx, amount: i32| async move {
        ctx.tx("transfer", async |mut tx: PgTx| {
            sqlx::query("update accounts set balance = balance - $1 where name = 'ada'")
                .bind(amount)
                .execute(&mut *tx)
                .await?;
            let left: i32 =
                sqlx::query_scalar("select balance from accounts where name = 'ada'").fetch_one(&mut *tx).await?;
            if left < 0 {
                return Err(Failure::new("Overdrawn", format!("{left}")));
            }
            sqlx::query("update accounts set balance = balance + $1 where name = 'bob'")
                .bind(amount)
                .execute(&mut *tx)
                .await?;
            Ok(left)
        })
        .await
    });
    let engine = builder.launch().await.unwrap();
    let run =
        async |amount| soon("a transfer", engine.start(workflow, &amount, Start::new()).await.unwrap().result()).await;
    assert_eq!(run(30).await.unwrap(), 70);
    assert_eq!(run(100).await.unwrap_err().name(), "Overdrawn");
    assert_eq!((balance(&pool, "ada").await, balance(&pool, "bob").await), (70, 130));
    // Killed before its commit, and after it.
    for (written, expected) in [(false, 60), (true, 50)] {
        let crash = Crash::at(Arc::clone(engine.store()), 1, written);
        let mut builder =
            Engine::builder().store(Arc::new(crash.clone())).migrate(false).version("v1").executor("crashes");
        let dies = builder.register("transfer", |ctx: Ctx, amount: i32| async move {
            ctx.tx("transfer", async |mut tx: PgTx| {
                sqlx::query("update accounts set balance = balance - $1 where name = 'ada'")
                    .bind(amount)
                    .execute(&mut *tx)
                    .await?;
                Ok(0)
            })
            .await
        });
        let killed = builder.launch().await.unwrap();
        let handle = killed.start(dies, &10, Start::new()).await.unwrap();
        soon("the crash", crash.crashed()).await;
        drop(killed);
        engine.recover(["crashes"], None).await.unwrap();
        soon("the transfer", engine.handle(workflow, handle.id()).result()).await.unwrap();
        assert_eq!(balance(&pool, "ada").await, expected);
    }
}

#[tokio::test]
async fn a_transaction_that_met_others_is_tried_again() {
    let (pool, _) = with_accounts().await;
    let tries = Arc::new(AtomicUsize::new(0));
    let mut builder = engine_of(&pool);
    let count = Arc::clone(&tries);
    let workflow = builder.register("adds", move |ctx: Ctx, (): ()| {
        let count = Arc::clone(&count);
        async move {
            ctx.tx("add", async |mut tx: PgTx| {
                count.fetch_add(1, Ordering::Relaxed);
                sqlx::query("set transaction isolation level serializable").execute(&mut *tx).await?;
                let sum: i64 = sqlx::query_scalar("select sum(balance) from accounts").fetch_one(&mut *tx).await?;
                sqlx::query("update accounts set balance = balance + 1 where name = 'ada'").execute(&mut *tx).await?;
                Ok(sum)
            })
            .await
        }
    });
    let engine = builder.launch().await.unwrap();
    let mut handles = Vec::new();
    for _ in 0..8 {
        handles.push(engine.start(workflow, &(), Start::new()).await.unwrap());
    }
    let mut sums = Vec::new();
    for handle in handles {
        sums.push(soon("a sum", handle.result()).await.unwrap());
    }
    sums.sort_unstable();
    assert_eq!(sums, (200..208).collect::<Vec<i64>>(), "as if one had run after the other");
    assert_eq!(balance(&pool, "ada").await, 108);
}

#[tokio::test]
async fn a_start_in_a_transaction_is_there_when_that_commits() {
    let (pool, _) = with_accounts().await;
    let mut builder = engine_of(&pool);
    let workflow = builder.register("echo", |_: Ctx, text: String| async move { Ok::<_, Failure>(text) });
    let engine = builder.launch().await.unwrap();
    for commit in [false, true] {
        let mut tx = pool.begin().await.unwrap();
        sqlx::query("update accounts set balance = 0 where name = 'ada'").execute(&mut *tx).await.unwrap();
        let start = Start::new().id(format!("w-{commit}"));
        let handle = engine.start_in(&mut tx, workflow, &"hi".to_owned(), start).await.unwrap();
        if commit {
            tx.commit().await.unwrap();
            assert_eq!(soon("the workflow", handle.result()).await.unwrap(), "hi");
        } else {
            tx.rollback().await.unwrap();
            assert!(engine.get(handle.id()).await.is_err());
        }
    }
    // A deduplication id that is taken leaves the caller's transaction as it was.
    let start = || Start::new().queue("q").deduplication("d").delay(Duration::from_secs(60));
    engine.start(workflow, &"first".to_owned(), start()).await.unwrap();
    let mut tx = pool.begin().await.unwrap();
    engine.start_in(&mut tx, workflow, &"second".to_owned(), start()).await.unwrap_err();
    sqlx::query("update accounts set balance = 7 where name = 'bob'").execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(balance(&pool, "bob").await, 7);
}

#[tokio::test]
async fn a_job_is_added_in_the_write_that_records_it() {
    let (pool, _) = database().await;
    let jobs = BackfillClient::with_pool(pool.clone()).await.unwrap();
    let register = |builder: &mut EngineBuilder| {
        builder.register("adds a job", |ctx: Ctx, (): ()| async move {
            ctx.enqueue_job(JobSpec::new("mail", "hello")).await?;
            Ok::<_, Failure>(())
        })
    };
    let store = PostgresStore::new(pool.clone(), "dbos").unwrap();
    store.migrate().await.unwrap();
    for (written, killed) in [(false, true), (true, true), (false, false)] {
        let crash =
            if killed { Crash::at(Arc::new(store.clone()), 1, written) } else { Crash::never(Arc::new(store.clone())) };
        let mut builder = Engine::builder()
            .store(Arc::new(crash.clone()))
            .migrate(false)
            .version("v1")
            .executor("adds")
            .jobs(jobs.clone());
        let workflow = register(&mut builder);
        let engine = builder.launch().await.unwrap();
        let id = unique("w");
        let handle = engine.start(workflow, &(), Start::new().id(&id)).await.unwrap();
        if killed {
            soon("the crash", crash.crashed()).await;
            drop(engine);
            let expected = i64::from(written);
            assert_eq!(waiting(&pool).await, expected, "written {written}");
            let mut builder = engine_of(&pool).executor("adds").jobs(jobs.clone());
            register(&mut builder);
            let engine = builder.launch().await.unwrap();
            soon("the rest", engine.handle(workflow, &id).result()).await.unwrap();
        } else {
            soon("all of it", handle.result()).await.unwrap();
        }
        assert_eq!(waiting(&pool).await, 1);
        sqlx::query("delete from graphile_worker._private_jobs").execute(&pool).await.unwrap();
    }
}

async fn waiting(pool: &PgPool) -> i64 {
    sqlx::query_scalar("select count(*) from graphile_worker._private_jobs").fetch_one(pool).await.unwrap()
}

#[derive(serde::Serialize, serde::Deserialize, backfill::TaskPayload)]
struct Order {
    id: u32,
}

#[tokio::test]
async fn a_job_starts_a_workflow_in_the_transaction_that_completes_it_beside_one_worker() {
    let (pool, _) = database().await;
    let jobs = BackfillClient::with_pool(pool.clone()).await.unwrap();
    let mut builder = engine_of(&pool);
    let workflow = builder.register("order", |_: Ctx, id: u32| async move { Ok::<_, Failure>(id) });
    let engine = builder.launch().await.unwrap();
    let state = (pool.clone(), engine.client().clone());
    let task = backfill::handler_with(
        state,
        move |(pool, workflows): (PgPool, Client), order: Order, ctx: JobContext| async move {
            let mut tx = pool.begin().await.map_err(|error| error.to_string())?;
            let start = Start::new().id(format!("order-{}", order.id));
            workflows.start_in(&mut tx, workflow, &order.id, start).await.map_err(|error| error.to_string())?;
            ctx.complete_in(&mut tx).await.map_err(|error| error.to_string())?;
            tx.commit().await.map_err(|error| error.to_string())
        },
    );
    let worker: Worker = jobs.worker().task(task).handle_signals(false).build().unwrap();
    let shutdown = worker.shutdown_handle();
    let client = engine.client().clone();
    let both = tokio::spawn(engine.run_beside(worker, Duration::from_secs(10)));
    jobs.add(Order { id: 17 }).await.unwrap();
    let started = async {
        while client.get("order-17").await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    soon("the workflow's start", started).await;
    assert_eq!(soon("the workflow", client.handle(workflow, "order-17").result()).await.unwrap(), 17);
    assert_eq!(waiting(&pool).await, 0, "the job is completed");
    shutdown.shutdown();
    soon("both", both).await.unwrap().unwrap();
}

#[tokio::test]
async fn one_who_waits_hears_though_the_listener_was_killed() {
    let (pool, _) = database().await;
    let mut builder = engine_of(&pool);
    let workflow = builder
        .register("receives", |ctx: Ctx, (): ()| async move { ctx.recv::<u32>("t", Duration::from_secs(120)).await });
    let engine = builder.launch().await.unwrap();
    let handle = engine.start(workflow, &(), Start::new()).await.unwrap();
    let killed = async {
        loop {
            let killed: Vec<bool> = sqlx::query_scalar(
                "select pg_terminate_backend(pid) from pg_stat_activity
                 where datname = current_database() and pid <> pg_backend_pid() and query ~* '^listen'",
            )
            .fetch_all(&pool)
            .await
            .unwrap();
            if !killed.is_empty() {
                return;
            }
        }
    };
    soon("the listener", killed).await;
    sqlx::query("select dbos.send_message($1, '7', 't')").bind(handle.id()).execute(&pool).await.unwrap();
    assert_eq!(soon("the message", handle.result()).await.unwrap(), Some(7));
}

#[tokio::test]
async fn sql_alone_starts_and_sends() {
    let (pool, _) = database().await;
    let mut builder = engine_of(&pool).queue(Queue::new("q").poll_interval(Duration::from_millis(50)));
    let workflow = builder.register("echo", |ctx: Ctx, (a, b): (i32, i32)| async move {
        let message = ctx.recv::<String>("", Duration::from_secs(60)).await?;
        Ok::<_, Failure>((a + b, message))
    });
    let engine = builder.launch().await.unwrap();
    let enqueue = "select dbos.enqueue_workflow('echo', 'q', array['1', '2']::json[], workflow_id => 'w', deduplication_id => 'd')";
    let id: String = sqlx::query_scalar(enqueue).fetch_one(&pool).await.unwrap();
    assert_eq!(id, "w");
    let again: String = sqlx::query_scalar(enqueue).fetch_one(&pool).await.unwrap();
    assert_eq!(again, "w");
    let other = enqueue.replace("'w'", "'v'");
    let error = sqlx::query(sqlx::AssertSqlSafe(other)).execute(&pool).await.unwrap_err();
    assert_eq!(error.as_database_error().unwrap().message(), "DBOS queue duplicated");
    sqlx::query("select dbos.send_message('w', '\"hello\"')").execute(&pool).await.unwrap();
    let result = soon("the workflow", engine.handle(workflow, "w").result()).await.unwrap();
    assert_eq!(result, (3, Some("hello".to_owned())));
    let error = sqlx::query("select dbos.send_message('nobody', '1')").execute(&pool).await.unwrap_err();
    assert_eq!(error.as_database_error().unwrap().message(), "DBOS non-existent workflow");
    for wrong in [
        "select dbos.enqueue_workflow('', 'q')",
        "select dbos.enqueue_workflow('w', '')",
        "select dbos.enqueue_workflow('w', 'q', named_args => '[]')",
        "select dbos.enqueue_workflow('w', 'q', workflow_id => '')",
        "select dbos.enqueue_workflow('w', 'q', delay_until_epoch_ms => -1)",
    ] {
        sqlx::query(wrong).execute(&pool).await.unwrap_err();
    }
}

#[tokio::test]
async fn a_row_of_an_older_library_runs() {
    let (pool, _) = database().await;
    let mut builder = engine_of(&pool).queue(Queue::new("q").poll_interval(Duration::from_millis(50)));
    let workflow = builder.register("double", |_: Ctx, number: i32| async move { Ok::<_, Failure>(number * 2) });
    let engine = builder.launch().await.unwrap();
    // Until version 108 the input stood in the row.
    let row =
        "insert into dbos.workflow_status (workflow_uuid, status, name, queue_name, inputs, serialization, priority)
        values ('old', 'ENQUEUED', 'double', 'q', '{\"positionalArgs\":[21]}', 'portable_json', 0)";
    sqlx::query(row).execute(&pool).await.unwrap();
    assert_eq!(soon("the workflow", engine.handle(workflow, "old").result()).await.unwrap(), 42);
    let row = "insert into dbos.workflow_status (workflow_uuid, status, name, output, serialization)
        values ('older', 'SUCCESS', 'double', '5', 'portable_json')";
    sqlx::query(row).execute(&pool).await.unwrap();
    assert_eq!(soon("the result", engine.handle(workflow, "older").result()).await.unwrap(), 5);
}

#[tokio::test]
async fn one_connection_is_enough() {
    let (_, url) = database().await;
    let pool =
        PgPoolOptions::new().max_connections(1).acquire_timeout(Duration::from_secs(20)).connect(&url).await.unwrap();
    let mut builder = engine_of(&pool).queue(Queue::new("q").concurrency(2));
    let child = builder.register("child", |ctx: Ctx, (): ()| async move {
        ctx.tx(
            "one",
            |mut tx: PgTx| async move { Ok(sqlx::query_scalar::<_, i32>("select 1").fetch_one(&mut *tx).await?) },
        )
        .await
    });
    let parent = builder.register("parent", move |ctx: Ctx, (): ()| async move {
        let children = (0..5).map(|_| ctx.child(child, &(), Start::new().queue("q")));
        let mut sum = 0;
        for child in futures::future::try_join_all(children).await? {
            sum += child.result().await?;
        }
        ctx.set_event("sum", &sum).await?;
        Ok::<_, Failure>(sum)
    });
    let engine = builder.launch().await.unwrap();
    let mut handles = Vec::new();
    for _ in 0..5 {
        handles.push(engine.start(parent, &(), Start::new()).await.unwrap());
    }
    for handle in handles {
        assert_eq!(soon("the parent", handle.result()).await.unwrap(), 5);
    }
}

/// A step's transaction holds the file of an SQLite storage, or the one connection of a pool: whoever waits for it inside would wait for ever.
#[tokio::test]
async fn a_clients_write_inside_a_transaction_is_refused() {
    let (pool, _) = database().await;
    let mut builder = engine_of(&pool);
    let other = builder.register("other", |_: Ctx, (): ()| async { Ok::<_, Failure>(5) });
    let workflow = builder.register("tx", move |ctx: Ctx, (): ()| async move {
        let client = ctx.client();
        ctx.tx("t", async |mut tx: PgTx| {
            let refused = client.start(other, &(), Start::new()).await.unwrap_err();
            let started = client.start_in(&mut *tx, other, &(), Start::new().id("inside")).await?;
            Ok((refused.to_string(), started.id().to_owned()))
        })
        .await
    });
    let engine = builder.launch().await.unwrap();
    let (refused, id) =
        soon("the workflow", engine.start(workflow, &(), Start::new()).await.unwrap().result()).await.unwrap();
    assert!(refused.contains("start_in") && refused.contains("\"t\""), "{refused}");
    assert_eq!(soon("the other", engine.handle(other, &id).result()).await.unwrap(), 5);
}

#[tokio::test]
async fn a_common_limit_holds_for_workflows_of_several_names() {
    let (pool, url) = database().await;
    let client = engine_of(&pool).launch().await.unwrap().client().store().clone();
    let client = Client::of_store(client);
    client.set_queue(&Queue::new("q").concurrency(1)).await.unwrap();
    let (running, peak) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut engines = Vec::new();
    for name in ["a", "b", "c"] {
        let pool = PgPoolOptions::new().max_connections(4).connect(&url).await.unwrap();
        let mut builder = engine_of(&pool);
        let (running, peak) = (Arc::clone(&running), Arc::clone(&peak));
        builder.register(name, move |_: Ctx, (): ()| {
            let (running, peak) = (Arc::clone(&running), Arc::clone(&peak));
            async move {
                peak.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(10)).await;
                running.fetch_sub(1, Ordering::SeqCst);
                Ok::<_, Failure>(())
            }
        });
        engines.push(builder.launch().await.unwrap());
    }
    let mut handles = Vec::new();
    for number in 0..30 {
        let workflow = Workflow::<(), ()>::named(["a", "b", "c"][number % 3]);
        handles.push(client.start(workflow, &(), Start::new().queue("q")).await.unwrap());
    }
    for handle in handles {
        soon("one of them", handle.result()).await.unwrap();
    }
    assert_eq!(peak.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn killed_connections_fail_no_workflow() {
    let (pool, _) = database().await;
    let mut builder = engine_of(&pool);
    let gets = builder.register("gets", |ctx: Ctx, (): ()| async move {
        ctx.get_event::<u32>("nobody", "k", Duration::from_secs(3)).await
    });
    let txs = builder.register("txs", |ctx: Ctx, (): ()| async move {
        ctx.tx("t", async |mut tx: PgTx| {
            sqlx::query("select pg_sleep(0.7)").execute(&mut *tx).await?;
            Ok(1)
        })
        .await
    });
    let engine = builder.launch().await.unwrap();
    let mut waiting = Vec::new();
    for _ in 0..10 {
        waiting.push(engine.start(gets, &(), Start::new()).await.unwrap());
    }
    let tx = engine.start(txs, &(), Start::new()).await.unwrap();
    let killer = PgPoolOptions::new().max_connections(1).connect(&support::server_url()).await.unwrap();
    let name: String = sqlx::query_scalar("select current_database()").fetch_one(&pool).await.unwrap();
    for _ in 0..10 {
        sqlx::query("select pg_terminate_backend(pid) from pg_stat_activity where datname = $1")
            .bind(&name)
            .execute(&killer)
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    assert_eq!(soon("the transaction", tx.result()).await.unwrap(), 1);
    for handle in waiting {
        assert_eq!(soon("an event", handle.result()).await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_deduplication_id_that_a_snapshot_cannot_see_is_a_conflict() {
    let (pool, _) = database().await;
    let engine = engine_of(&pool).launch().await.unwrap();
    let workflow = Workflow::<(), ()>::named("w");
    let start = || Start::new().queue("q").deduplication("k");
    let mut tx = pool.begin_with("begin isolation level repeatable read").await.unwrap();
    sqlx::query("select 1 from pg_class").execute(&mut *tx).await.unwrap();
    Client::of_store(Arc::clone(engine.store())).start(workflow, &(), start()).await.unwrap();
    let error = soon("an answer", engine.start_in(&mut tx, workflow, &(), start())).await.unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("begin the transaction anew"), "{error}");
}

#[tokio::test]
async fn launches_at_once_on_an_older_schema_bring_it_up_to_date() {
    let (pool, _) = database().await;
    PostgresStore::new(pool.clone(), "dbos").unwrap().migrate().await.unwrap();
    for _ in 0..3 {
        let older = "update dbos.dbos_migrations set version = 114; drop index dbos.idx_workflow_status_deadline;
            drop index dbos.idx_workflow_status_in_flight_v2";
        sqlx::raw_sql(older).execute(&pool).await.unwrap();
        let stores: Vec<_> = (0..4).map(|_| PostgresStore::new(pool.clone(), "dbos").unwrap()).collect();
        soon("all of them", futures::future::try_join_all(stores.iter().map(Store::migrate))).await.unwrap();
    }
}

#[tokio::test]
async fn a_fork_has_messages_of_older_clients() {
    let (pool, _) = database().await;
    let engine = engine_of(&pool).launch().await.unwrap();
    let workflow = Workflow::<(), ()>::named("w");
    let client = Client::of_store(Arc::clone(engine.store()));
    client.start(workflow, &(), Start::new().id("source")).await.unwrap();
    client.send("source", "t", &1, None).await.unwrap();
    // Until version 121 nobody noted which step has consumed one.
    sqlx::query("update dbos.notifications set consumed = true").execute(&pool).await.unwrap();
    let fork = client.fork(workflow, "source", backfill_workflow::ForkFrom::Step(0), Start::new()).await.unwrap();
    assert!(!client.messages(fork.id()).await.unwrap()[0].consumed);
}

#[tokio::test]
async fn a_connection_of_another_kind_is_refused() {
    let (pool, _) = database().await;
    let mut builder = engine_of(&pool);
    let workflow =
        builder.register("wrong", |ctx: Ctx, (): ()| async move { ctx.tx("tx", |_: SqliteTx| async { Ok(()) }).await });
    let engine = builder.launch().await.unwrap();
    let failure =
        soon("the refusal", engine.start(workflow, &(), Start::new()).await.unwrap().result()).await.unwrap_err();
    assert!(failure.to_string().contains("SQLite") && failure.to_string().contains("PostgreSQL"), "{failure}");
}

#[tokio::test]
async fn schemas_have_any_name_and_do_not_meet() {
    let (pool, _) = database().await;
    for odd in ["", "pg_mine", &"x".repeat(64), "with\0nul"] {
        assert!(PostgresStore::new(pool.clone(), odd).is_err(), "{odd:?}");
    }
    let mut engines = Vec::new();
    for schema in ["Weird\"Schema'; --", "dbos", "täbles"] {
        let mut builder = engine_of(&pool).schema(schema);
        builder.register("where", move |ctx: Ctx, (): ()| async move {
            ctx.set_event("e", schema).await?;
            ctx.sleep(Duration::from_millis(1)).await?;
            Ok::<_, Failure>(schema.to_owned())
        });
        engines.push((schema, builder.launch().await.unwrap()));
    }
    let workflow = Workflow::<(), String>::named("where");
    for (schema, engine) in &engines {
        let handle = engine.start(workflow, &(), Start::new().id("w")).await.unwrap();
        assert_eq!(soon("the workflow", handle.result()).await.unwrap(), *schema);
        assert_eq!(handle.status().await.unwrap(), Status::Success);
    }
}

/// What the server counts of the table's reads is asked when all sessions that have read it are over, and have told it.
#[tokio::test]
async fn no_claim_and_no_step_reads_the_whole_table() {
    let (pool, url) = database().await;
    let mut builder = engine_of(&pool).queue(Queue::new("q"));
    let workflow =
        builder.register("quick", |ctx: Ctx, (): ()| async move { ctx.step("s", || async { Ok(()) }).await });
    let engine = builder.launch().await.unwrap();
    sqlx::raw_sql(
        "insert into dbos.workflow_status (workflow_uuid, status, name, queue_name, priority, completed_at, created_at, serialization)
         select 'done-' || n, 'SUCCESS', 'quick', 'q', 0, n, n, 'portable_json' from generate_series(1, 50000) n;
         analyze dbos.workflow_status; select pg_stat_reset()",
    )
    .execute(&pool)
    .await
    .unwrap();
    for _ in 0..3 {
        let handle = engine.start(workflow, &(), Start::new().queue("q")).await.unwrap();
        soon("the workflow", handle.result()).await.unwrap();
    }
    engine.shutdown(Duration::from_secs(10)).await;
    soon("the pool's end", pool.close()).await;
    let asks = PgPoolOptions::new().max_connections(1).connect(&url).await.unwrap();
    let counted = async {
        loop {
            let row: (i64, i64) = sqlx::query_as(
                "select coalesce(seq_tup_read, 0), coalesce(idx_scan, 0) from pg_stat_user_tables
                 where schemaname = 'dbos' and relname = 'workflow_status'",
            )
            .fetch_one(&asks)
            .await
            .unwrap();
            // By an index each workflow is claimed, recorded and ended.
            if row.1 >= 9 {
                return row.0;
            }
        }
    };
    let read = soon("what the sessions have counted", counted).await;
    assert!(read < 50_000, "a whole table was read: {read} rows");
}
