//! Searching and counting in PostgreSQL, where there are many jobs, and in schemas that lack what is ours.

mod support;

use std::time::Duration;

use backfill::postgres::ListIndex;
use backfill::search::{Found, Order, Search};
use backfill::storage::{CheckStatus, Effort, Precision, QueueList};
use backfill::{BackfillClient, JobSpec, JobState};
use serde_json::json;
use sqlx::PgPool;
use support::{ask, client, sql};

/// More than are counted in any case.
const MANY: usize = 240_000;

/// Many jobs: a fifth scheduled, a twentieth dead, a twentieth retrying, three held, some in queues.
async fn many(pool: &PgPool, schema: &str) {
    let text = format!(
        "insert into S._private_tasks (identifier) select 'task_' || n from generate_series(1, 20) n;
         insert into S._private_job_queues (queue_name) select 'queue ' || n from generate_series(1, 10) n;
         insert into S._private_jobs (task_id, job_queue_id, payload, priority, run_at, attempts, last_error)
         select (select min(id) from S._private_tasks) + n % 20,
           case when n % 10 = 3 then (select min(id) from S._private_job_queues) + n / 10 % 10 end,
           json_build_object('n', n), case when n % 50 = 0 then -1 else 0 end,
           now() + case when n % 5 = 0 then 1 else -1 end * interval '1 hour',
           case when n % 20 = 7 then 25 when n % 20 = 11 then 3 else 0 end, case when n % 20 in (7, 11) then 'no' end
         from generate_series(1, {MANY}) n;
         update S._private_jobs set locked_at = now(), locked_by = 'worker_of_node' where payload ->> 'n' in ('1', '2', '4');
         analyze S._private_jobs"
    );
    sql(pool, schema, &text).await;
}

async fn found(client: &BackfillClient, query: &str, order: Order) -> Found {
    let search =
        Search::new(query.parse().expect(query)).order(order).limit(5).budget(Duration::ZERO).without_payloads();
    client.search(&search).await.expect(query)
}

#[tokio::test]
async fn many_jobs_are_estimated_and_the_numbers_say_so() {
    let (client, pool, schema) = client().await;
    many(&pool, &schema).await;
    let inspect = client.storage().inspect().expect("it can be looked at");
    let (exact, tally) = (inspect.tally(Effort::Exact).await.expect("tally"), client.tally().await.expect("tally"));
    assert_eq!(exact.total(), backfill::storage::Number::exact(MANY as u64));
    // These are counted by their index, since they are few enough.
    assert_eq!((tally.dead, tally.retrying), (exact.dead, exact.retrying));
    for state in [JobState::Ready, JobState::Scheduled] {
        let (estimate, truth) = (tally.get(state), exact.get(state).value);
        assert_eq!(estimate.precision, Precision::Estimated, "{state}");
        assert!(
            estimate.value.abs_diff(truth) * 20 <= truth,
            "{state}: {} is not within 5 % of {truth}",
            estimate.value
        );
    }
    assert_eq!(tally.running.precision, Precision::Estimated, "Node's workers do not say what they run");
    let tasks = inspect.tasks(Effort::Bounded).await.expect("tasks");
    assert_eq!((tasks.len(), tasks[0].precision), (20, Precision::Estimated));
    assert!(inspect.workers(Effort::Bounded).await.expect("workers").is_empty(), "what they hold is not read");
    assert_eq!(inspect.workers(Effort::Exact).await.expect("workers")[0].jobs, 3);
    let queues = QueueList::all(Effort::Bounded).limit(7);
    let told = inspect.queues(&queues).await.expect("queues");
    assert_eq!((told.len(), told[0].precision), (7, Precision::Unknown));

    // The indexes that one may ask for make them known.
    let postgres = client.postgres().expect("PostgreSQL");
    for index in [ListIndex::Running, ListIndex::Queue, ListIndex::Task] {
        assert!(postgres.build_index(index).await.expect("build"), "{index} is new");
        assert!(!postgres.build_index(index).await.expect("build"), "{index} is there");
    }
    assert_eq!(client.tally().await.expect("tally").running, exact.running);
    assert_eq!(inspect.workers(Effort::Bounded).await.expect("workers")[0].jobs, 3);
    let told = inspect.queues(&queues).await.expect("queues");
    assert!(told.iter().all(|queue| queue.precision == Precision::AtLeast && queue.jobs.total() == 1_000), "{told:?}");
}

#[tokio::test]
async fn a_search_follows_the_index_that_has_what_it_wants() {
    let (client, pool, schema) = client().await;
    many(&pool, &schema).await;
    let first_task = ask(&pool, &schema, "select identifier from S._private_tasks order by id limit 1").await;
    let narrow = format!("task:{first_task} payload.n:<100");
    let ways = [
        ("state:dead", None),
        ("state:retrying -error:no", None),
        ("state:running", Some(ListIndex::Running)),
        (narrow.as_str(), Some(ListIndex::Task)),
        ("queue:\"queue 7\" payload.n:<100", Some(ListIndex::Queue)),
    ];
    for (query, index) in ways {
        if let Some(index) = index {
            // Without it, the first window of all jobs is what there is time for.
            let before = found(&client, query, Order::Newest).await;
            assert!(before.jobs.is_empty() && before.looked_at == 500 && before.next.is_some(), "{query}: {before:?}");
            client.postgres().expect("PostgreSQL").build_index(index).await.expect("build");
        }
        let after = found(&client, query, Order::Newest).await;
        let plan =
            "select count(*) from pg_stat_user_indexes where schemaname = 'S' and idx_scan > 0 and indexrelname = 'I'";
        let index = index.map_or(
            if query.contains("dead") { "backfill_jobs_dead" } else { "backfill_jobs_retrying" },
            ListIndex::name,
        );
        let plan = plan.replace("'S'", &format!("'{schema}'")).replace("'I'", &format!("'{index}'"));
        // Statistics come late; a session of one's own sends them when it ends.
        support::until("the index is used", || async { ask(&pool, &schema, &plan).await == "1" }).await;
        assert!(after.looked_at <= 500, "{query}: {}", after.looked_at);
    }
    let running = found(&client, "state:running", Order::Oldest).await;
    assert_eq!((running.jobs.len(), running.looked_at, running.next), (3, 3, None));
    // Scheduled jobs are read without the ready ones before them, and the other way round.
    for query in ["state:scheduled", "state:ready priority:0"] {
        let claims = found(&client, query, Order::Claim).await;
        assert!(claims.jobs.len() == 5 && claims.looked_at < 20, "{query}: {}", claims.looked_at);
    }
}

#[tokio::test]
async fn an_index_that_was_half_built_is_built_again_and_one_that_is_missing_is_told() {
    let (client, pool, schema) = client().await;
    client.add(JobSpec::new("a", json!({}))).await.expect("add");
    let postgres = client.postgres().expect("PostgreSQL");
    sql(&pool, &schema, "update pg_index set indisvalid = false where indexrelid = 'S.backfill_jobs_dead'::regclass")
        .await;
    assert!(postgres.build_index(ListIndex::Dead).await.expect("build"));
    let valid = "select indisvalid from pg_index where indexrelid = 'S.backfill_jobs_dead'::regclass";
    assert_eq!(ask(&pool, &schema, valid).await, "true");

    let objects = async || {
        let checks = client.storage().doctor().expect("a doctor").diagnose(Effort::Exact).await;
        checks.into_iter().filter(|check| check.what == "objects").map(|check| check.status).collect::<Vec<_>>()
    };
    assert!(matches!(objects().await[..], [CheckStatus::Fine { .. }]));
    postgres.build_index(ListIndex::Task).await.expect("build");
    assert!(matches!(objects().await[..], [CheckStatus::Fine { .. }]), "one that was asked for is part of the schema");
    sql(&pool, &schema, "drop index S.backfill_jobs_retrying").await;
    let told = objects().await;
    assert!(
        matches!(&told[..], [CheckStatus::Found { remedy, .. }] if remedy.contains("backfill migrate --indexes")),
        "{told:?}"
    );
}

#[tokio::test]
async fn the_indexes_are_built_at_once_where_that_takes_a_moment_and_left_out_where_it_does_not() {
    let (_, pool, schema) = client().await;
    let there = "select count(*) from pg_indexes where schemaname = 'S' and indexname like 'backfill\\_jobs\\_%'";
    let there = there.replace("'S'", &format!("'{schema}'"));
    assert_eq!(ask(&pool, &schema, &there).await, "2");
    let drop = "drop index S.backfill_jobs_dead, S.backfill_jobs_retrying;
                delete from S.backfill_migrations where id >= 10;
                insert into S._private_tasks (identifier) values ('large');
                alter table S._private_jobs alter column payload set storage plain;
                insert into S._private_jobs (task_id, payload)
                select (select id from S._private_tasks), json_build_array(repeat('x', 7000)) from generate_series(1, 9000)";
    sql(&pool, &schema, drop).await;
    BackfillClient::with_pool_and_schema(pool.clone(), &schema).await.expect("migrate");
    assert_eq!(ask(&pool, &schema, &there).await, "0", "a table of more than 64 MiB");
    assert_eq!(ask(&pool, &schema, "select max(id) from S.backfill_migrations").await, "10");
}

#[tokio::test]
async fn a_schema_without_our_objects_is_searched_and_nothing_is_made_in_it() {
    let (client, pool, schema) = client().await;
    client.add(JobSpec::new("a", json!({ "n": 1 })).serial_queue("q").key("k")).await.expect("add");
    let bare = "drop index S.backfill_jobs_dead, S.backfill_jobs_retrying;
                drop table S.backfill_pools, S.backfill_imports, S.backfill_migrations;
                update S._private_jobs set locked_at = now(), locked_by = 'node'";
    sql(&pool, &schema, bare).await;
    let objects = "select count(*) from pg_class where relnamespace = 'S'::regnamespace";
    let objects = objects.replace("'S'", &format!("'\"{schema}\"'"));
    let before = ask(&pool, &schema, &objects).await;
    let inspect = client.storage().inspect().expect("it can be looked at");
    for query in ["", "state:running", "state:dead", "task:a", "queue:q", "key:k", "worker:node", "payload.n:1"] {
        for order in Order::ALL {
            let found = found(&client, query, order).await;
            let expected = usize::from(query != "state:dead" && order != Order::Claim);
            assert_eq!(found.jobs.len(), expected, "{query} {order:?}");
        }
    }
    for effort in [Effort::Exact, Effort::Bounded] {
        assert_eq!(inspect.tally(effort).await.expect("tally").running.value, 1);
        assert_eq!(inspect.tasks(effort).await.expect("tasks").len(), 1);
        assert_eq!(inspect.workers(effort).await.expect("workers").len(), 1);
        assert_eq!(inspect.queues(&QueueList::all(effort)).await.expect("queues").len(), 1);
    }
    assert_eq!(ask(&pool, &schema, &objects).await, before);
}

#[tokio::test]
async fn a_payload_that_cannot_be_unescaped_ends_no_search() {
    let (client, pool, schema) = client().await;
    let odd = r#"insert into S._private_tasks (identifier) values ('odd');
        insert into S._private_jobs (task_id, payload)
        select (select id from S._private_tasks where identifier = 'odd'), payload::json
        from (values
          ('{"nul":"\u0000","n":1}'), ('{"half":"\ud800","n":1}'), ('{"n":"\u0031"}'), ('{"n":1e400}'), ('{"n":"1e999999"}'),
          ('{"n":1.0}'), ('[1]'), ('"n"'), ('{"n":{"n":1}}')
        ) as odd (payload)"#;
    sql(&pool, &schema, odd).await;
    for (query, count) in [
        ("payload.n:1", 4),
        ("payload.n:>0", 4),
        ("payload.n:*", 7),
        ("-payload.n:*", 2),
        ("payload.0:1", 1),
        ("payload:n", 1),
    ] {
        let search = Search::new(query.parse().expect(query));
        assert_eq!(client.search(&search).await.expect(query).jobs.len(), count, "{query}");
    }
}
