//! Names of schemas.

use backfill::{BackfillClient, Error, JobContext, JobSpec, Worker, task_fn};

use crate::support::{pool, unique};

#[tokio::test]
async fn any_name_that_postgresql_accepts_works_from_migration_to_the_last_statement() {
    let pool = pool().await;
    let long = format!("{}{}", "x".repeat(41), &unique("y")[..22]);
    assert_eq!(long.len(), 63);
    let names = [
        unique("Mixed Case"),
        unique("quote\"d"),
        unique("it's"),
        unique("ünï ☃"),
        unique("select $1; --"),
        unique("a.b"),
        unique("a$$b $body0$"),
        unique("'graphile_worker'."),
        long,
    ];
    for schema in names {
        let client = BackfillClient::with_pool_and_schema(pool.clone(), &schema).await.expect(&schema);
        let mut tx = pool.begin().await.expect("begin");
        client.add(JobSpec::new("t", "x").serial_queue("q").key("k")).within(&mut tx).await.expect(&schema);
        tx.commit().await.expect("commit");
        client.add(JobSpec::new("t", "y").serial_queue("q").key("gone")).await.expect(&schema);
        assert!(client.remove("gone").await.expect(&schema).is_some());
        let worker = Worker::builder(client.clone())
            .task(task_fn("t", |_: String, _: JobContext| async { Err::<(), _>("no") }))
            .build()
            .expect("worker");
        assert_eq!(worker.run_until_idle().await.expect(&schema).failed, 1);
        assert_eq!(client.counts().await.expect(&schema).retrying, 1);
        client.cleanup(&backfill::Cleanup::new().dead_jobs().tasks(["t"]).queues()).await.expect(&schema);
    }
}

#[tokio::test]
async fn names_that_postgresql_refuses_are_refused_with_the_reason() {
    let pool = pool().await;
    for (name, reason) in [("", "empty"), ("pg_x", "pg_"), (&"x".repeat(64), "64 bytes"), ("a\0", "NUL")] {
        let error = BackfillClient::with_pool_and_schema(pool.clone(), name).await.expect_err(name);
        assert!(matches!(error, Error::InvalidSchemaName { .. }) && error.to_string().contains(reason), "{error}");
    }
}
