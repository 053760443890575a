//! Time that passes at once.

use std::sync::Arc;
use std::time::Duration;

use backfill::job::JobState;
use backfill::storage::{ClaimRequest, Registration, WorkerId};
use backfill::testing::{TestQueue, job, job_named, within};
use backfill::{JobSpec, RetryPolicy, handler};

use crate::{SendInvoice, on_each, panic_of, send_invoice};

const HOUR: Duration = Duration::from_secs(3600);

on_each! {
    async fn in_25_hours_what_is_due_by_then_is_due(queue: TestQueue) {
        let jobs = queue.client();
        jobs.add(SendInvoice { order: 17 }).run_in(24 * HOUR).await.expect("add");
        jobs.add(SendInvoice { order: 18 }).run_in(26 * HOUR).await.expect("add");
        queue.drain(queue.worker().task(send_invoice)).await.done().assert_empty();
        queue.advance("25h").await;
        queue.jobs().await.one(job::<SendInvoice>().state(JobState::Scheduled).due_in(within("1h", "1m")));
        let report = queue.drain(queue.worker().task(send_invoice)).await;
        assert_eq!(report.done().one(job::<SendInvoice>()).payload.order, 17);
        queue.jobs().await.one(job::<SendInvoice>().payload_with(|invoice| invoice.order == 18));
    }

    async fn a_retry_is_due_when_its_delay_has_passed(queue: TestQueue) {
        queue.client().add(SendInvoice { order: 0 }).await.expect("add");
        let worker = || queue.worker().task(handler(send_invoice).retry(RetryPolicy::fixed(HOUR)));
        queue.drain(worker()).await.failed().one(job::<SendInvoice>().last_error("no order 0"));
        queue.advance("59m").await;
        assert_eq!(queue.drain(worker()).await.started(), 0);
        queue.advance("2m").await;
        queue.drain(worker()).await.failed().one(job::<SendInvoice>().attempts(2));
    }

    async fn a_worker_that_sent_no_heartbeat_is_dead_and_its_jobs_are_ready(queue: TestQueue) {
        queue.client().add(JobSpec::new("t", 1)).serial_queue("q").await.expect("add");
        let (worker, tasks) = (WorkerId::random(), ["t".to_owned()]);
        let storage = queue.client().storage().consumer();
        let registration = Registration::new(&worker, &tasks).dead_after(Duration::from_secs(15));
        assert!(storage.register(&registration).await.expect("register"));
        assert_eq!(storage.claim(&ClaimRequest::new(&worker, &tasks, 1)).await.expect("claim").jobs.len(), 1);
        queue.advance("5s").await;
        queue.jobs().await.one(job_named("t").state(JobState::Running));
        queue.advance("25h").with_workers().await;
        queue.jobs().await.one(job_named("t").state(JobState::Running));
        assert!(storage.heartbeat(&worker).await.expect("heartbeat"), "it was kept alive");
        queue.advance("25h").await;
        assert!(!storage.heartbeat(&worker).await.expect("heartbeat"), "it was declared dead");
        queue.jobs().await.one(job_named("t").state(JobState::Retrying).last_error("stopped sending heartbeats"));
        assert!(queue.client().workers().await.expect("workers").is_empty());
    }

    async fn a_claim_of_a_living_worker_stands_while_time_passes(queue: TestQueue) {
        // The task lets time pass in the queue that it is in.
        let task = backfill::task_fn("t", |(), ctx: backfill::JobContext| async move {
            let queue = ctx.get::<Arc<TestQueue>>().expect("the test's queue");
            queue.advance("25h").with_workers().await;
        });
        let queue = Arc::new(queue);
        queue.client().add(JobSpec::new("t", ())).await.expect("add");
        let its = Arc::clone(&queue);
        let middleware = backfill::middleware_fn(move |ctx, next| next.run(ctx.with(Arc::clone(&its))));
        queue.drain(queue.worker().task(task).middleware(middleware)).await.assert_all_done();
        queue.assert_no_jobs_left().await;
    }

    async fn what_a_move_has_reserved_stays_reserved(queue: TestQueue) {
        queue.client().add(JobSpec::new("t", 1)).await.expect("add");
        let client = queue.client();
        let reserved = client.storage().require_transfer().expect("transfer").reserve("move", None, 10, 1_000).await;
        assert_eq!(reserved.expect("reserve").len(), 1);
        queue.advance("25h").await;
        queue.jobs().await.one(job_named("t").state(JobState::Running));
    }

    async fn a_crontab_is_due_in_the_time_that_has_passed(queue: TestQueue) {
        let text = "0 4 * * * report ?queue=reports {to: \"ada@example.com\"}\n*/30 * * * * tidy";
        let noon = "2026-11-30T12:00:00Z".parse().expect("a time");
        let crontab = || queue.cron(text).starting(noon);
        crontab().assert_due("report", 0);
        queue.advance("25h").await;
        crontab().assert_due("report", 1);
        assert_eq!(crontab().due("report")[0].to_string(), "2026-12-01 04:00:00 UTC");
        crontab().assert_due("tidy", 50);
        let added = crontab().add_due().await;
        assert_eq!(added.len(), 51);
        let report = added.one(job_named("report").queue("reports").state(JobState::Ready));
        assert_eq!(report.payload["_cron"]["ts"], "2026-12-01T04:00:00.000Z");
        crontab().add_due().await.assert_empty();
        queue.advance("1h").await;
        crontab().add_due().await.count(job_named("tidy"), 2);
    }

    async fn scheduled_jobs_and_retries_run_to_their_end(queue: TestQueue) {
        let jobs = queue.client();
        jobs.add(SendInvoice { order: 17 }).run_in(24 * HOUR).await.expect("add");
        jobs.add(SendInvoice { order: 0 }).max_attempts(3).await.expect("add");
        let report = queue.drain(queue.worker().task(send_invoice)).scheduled_too().await;
        assert_eq!((report.done().len(), report.failed().len(), report.dead().len()), (1, 2, 1));
        assert_eq!(report.to_string(), "send_invoice: 1 done, 2 failed, 1 dead\n");
        queue.jobs().await.one(job::<SendInvoice>().state(JobState::Dead));
    }
}

/// Node's workers send no heartbeats: their locks hold for four hours.
#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test]
async fn a_lock_of_nodes_expires_in_postgresql() {
    let pool = sqlx::PgPool::connect(&crate::server()).await.expect("the test server");
    let queue = TestQueue::postgres(&pool).await;
    let jobs = queue.client();
    jobs.add(JobSpec::new("t", 1)).serial_queue("q").await.expect("add");
    let schema = jobs.postgres().expect("PostgreSQL").schema().to_owned();
    let lock = format!(
        "update {schema}._private_job_queues set locked_at = now(), locked_by = 'node';
         update {schema}._private_jobs set locked_at = now(), locked_by = 'node', attempts = 1"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(lock)).execute(&pool).await.expect("lock");
    expires(&queue).await;
}

#[tokio::test]
async fn a_lock_without_a_worker_expires_in_sqlite() {
    let queue = TestQueue::sqlite().await;
    let jobs = queue.client();
    jobs.add(JobSpec::new("t", 1)).serial_queue("q").await.expect("add");
    let path = jobs.any_storage().sqlite().expect("SQLite").path().display().to_string();
    let pool = sqlx::SqlitePool::connect(&format!("sqlite://{path}")).await.expect("the file");
    let now = chrono::Utc::now().timestamp_micros();
    for lock in ["backfill_jobs set attempts = 1,", "backfill_queues set"] {
        let lock = format!("update {lock} locked_at = {now}, locked_by = 'gone'");
        sqlx::raw_sql(sqlx::AssertSqlSafe(lock)).execute(&pool).await.expect("lock");
    }
    pool.close().await;
    expires(&queue).await;
}

async fn expires(queue: &TestQueue) {
    queue.advance("3h").await;
    queue.jobs().await.one(job_named("t").state(JobState::Running));
    queue.advance("2h").await;
    queue.jobs().await.one(job_named("t").state(JobState::Ready));
    let task = backfill::task_fn("t", |_: u32, _: backfill::JobContext| async {});
    queue.drain(queue.worker().task(task)).await.done().one(job_named("t").attempts(2));
}

#[test]
fn a_crontab_that_is_due_otherwise_tells_when() {
    let queue = TestQueue::memory();
    let crontab = queue.cron("0 4 * * * report").starting("2026-11-30T12:00:00Z".parse().expect("a time"));
    let text = panic_of(|| crontab.assert_due("report", 1));
    assert!(text.starts_with("expected \"report\" to be due 1 times from 2026-11-30 12:00:00 UTC to"), "{text}");
    let text = panic_of(|| crontab.assert_due("raport", 1));
    assert!(text.contains("there are [\"report\"]; did you mean \"report\"?"), "{text}");
    let text = panic_of(|| queue.cron("0 4 * * report"));
    assert!(text.contains("the crontab has a problem"), "{text}");
}
