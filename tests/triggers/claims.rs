//! Claims that a trigger leaves out.

use backfill::worker::Event;
use backfill::{BackfillClient, JobContext, JobSpec, Queue, Worker, task_fn};

use crate::file_with;
use crate::support::{client, soon, sql};

/// Jobs that no claim can take are told, and looked for no more often than any others.
async fn tells_that_claims_are_left_out(client: &BackfillClient, allow: impl AsyncFnOnce()) {
    client.add_many((0..30).map(|n| JobSpec::new("t", n))).await.expect("add");
    client.add_many((0..3).map(|n| JobSpec::new("t", n).queue(Queue::serial("q")))).await.expect("add");
    let run = async || {
        let handler = task_fn("t", async |_: serde_json::Value, _: JobContext| {});
        let worker = Worker::builder(client.clone()).task(handler).concurrency(5).handle_signals(false);
        let worker = worker.build().expect("a worker");
        let mut events = worker.events();
        let run = async {
            let ended = worker.run_until_idle().await;
            drop(worker);
            ended
        };
        let looks = async {
            let mut looks = 0;
            while let Some(event) = events.next().await {
                looks += u32::from(matches!(event, Event::Claiming { .. }));
            }
            looks
        };
        let (ended, looks) = soon("it ends", async { tokio::join!(run, looks) }).await;
        (ended.expect("run").completed, looks)
    };
    let (done, looks) = run().await;
    assert!(done == 0 && looks < 10, "{done} in {looks} looks");
    assert!(client.queues().await.expect("queues").iter().all(|queue| queue.locked_by.is_none()), "nobody holds it");
    let found =
        format!("{:?}", client.storage().doctor().expect("a doctor").diagnose(backfill::storage::Effort::Exact).await);
    assert!(found.contains("a trigger keeps 33 of 33 ready jobs from being taken (\\\"t\\\")"), "{found}");
    assert_eq!(client.counts().await.expect("counts").ready, 33, "it has only tried");
    allow().await;
    assert_eq!(run().await.0, 33);
    assert!(
        !format!("{:?}", client.storage().doctor().expect("a doctor").diagnose(backfill::storage::Effort::Exact).await)
            .contains("a trigger keeps")
    );
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_a_trigger_leaves_out_is_told_and_made_again_by_nobody() {
    let (client, pool, schema) = client().await;
    let text = "create function S.t() returns trigger language plpgsql as $$ begin
           if new.locked_by is not null then return null; end if; return new; end $$;
         create trigger t before update on S._private_jobs for each row execute function S.t()";
    sql(&pool, &schema, text).await;
    tells_that_claims_are_left_out(&client, async || sql(&pool, &schema, "drop trigger t on S._private_jobs").await)
        .await;
    let text = "create or replace function S.t() returns trigger language plpgsql as $$ begin return null; end $$;
         create trigger d before delete on S._private_jobs for each row execute function S.t()";
    sql(&pool, &schema, text).await;
    client.add(JobSpec::new("t", 1)).await.expect("add");
    let found =
        format!("{:?}", client.storage().doctor().expect("a doctor").diagnose(backfill::storage::Effort::Exact).await);
    assert!(found.contains("a trigger keeps 1 of 1 jobs from being deleted when they are done"), "{found}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_file_a_claim_that_a_trigger_leaves_out_is_told_and_made_again_by_nobody() {
    let (_directory, client, pool) = file_with(
        "create trigger t before update on backfill_jobs when new.locked_by is not null begin select raise(ignore); end",
    )
    .await;
    let allow = async || {
        sqlx::raw_sql("drop trigger t").execute(&pool).await.expect("drop");
    };
    tells_that_claims_are_left_out(&client, allow).await;
}
