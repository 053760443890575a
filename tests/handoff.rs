//! Single new jobs that are stored as claimed by a worker with free slots.

mod support;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use backfill::storage::{
    ClaimRef, ClaimToken, ClaimedJob, Handoff, Offer, Outcome, Registration, Settlement, Wakeup, WorkerId,
};
use backfill::worker::Event;
use backfill::{BackfillClient, Job, JobContext, JobSpec, Worker, task_fn};
use futures::{Stream, StreamExt};
use sqlx::PgPool;
use support::running::{Running, empty};
use support::{LISTENS, ask, client, database, soon, sql, until};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;

/// What a worker tells.
type Events = Pin<Box<dyn Stream<Item = Event> + Send>>;

/// Adds jobs until one is handed off: a client has to know the task, and to have looked for workers.
async fn add_until_handed(client: &BackfillClient) -> Job {
    soon("a job is handed off", async {
        loop {
            let job = client.add(JobSpec::new("t", ())).await.expect("add");
            if job.locked_by.is_some() {
                return job;
            }
        }
    })
    .await
}

/// A receiver without a worker: a registered worker whose offers the test makes.
struct HandoffReceiver {
    client: BackfillClient,
    worker: Arc<WorkerId>,
    offers: watch::Sender<Option<Offer>>,
    wakeups: mpsc::UnboundedReceiver<Wakeup>,
    listening: JoinHandle<()>,
}

impl HandoffReceiver {
    async fn of(client: &BackfillClient) -> Self {
        let worker = Arc::new(WorkerId::random());
        let storage = client.storage().consumer();
        assert!(storage.register(&Registration::new(&worker, &["t".to_owned()])).await.expect("register"));
        let offer = Offer::new(Arc::clone(&worker), ["t".to_owned()].into(), 1);
        let offers = watch::Sender::new(Some(offer));
        let mut heard = storage.wakeups(Some(offers.subscribe()));
        let (tell, mut wakeups) = mpsc::unbounded_channel();
        let listening = tokio::spawn(async move {
            while let Some(wakeup) = heard.next().await {
                let _ = tell.send(wakeup);
            }
        });
        assert_eq!(soon("listening", wakeups.recv()).await, Some(Wakeup::Listening));
        Self { client: client.clone(), worker, offers, wakeups, listening }
    }

    async fn add(&self) -> Job {
        self.client.add(JobSpec::new("t", ())).await.expect("add")
    }

    /// Adds until a job is handed off, and hears of it; the others are done away with.
    async fn handed_off(&mut self) -> Handoff {
        soon("a job is handed off", async {
            loop {
                let added = self.add().await;
                if added.locked_by.is_none() {
                    self.client.complete(&[added.id]).await.expect("complete");
                    continue;
                }
                loop {
                    // There may be earlier ones, of which nobody wanted to hear.
                    if let Some(Wakeup::HandedOff(handoff)) = self.wakeups.recv().await
                        && handoff.job.id == added.id
                    {
                        assert_eq!(handoff.worker, self.worker);
                        return *handoff;
                    }
                }
            }
        })
        .await
    }

    async fn take_one(&mut self) {
        let handed_off = self.handed_off().await;
        self.done(&handed_off.job).await;
    }

    async fn done(&self, job: &ClaimedJob) {
        let settlement = Settlement::new(ClaimRef::of(job), Outcome::completed());
        let written = self.client.storage().consumer().settle(&self.worker, &[settlement]).await.expect("settle");
        assert_eq!(written.applied, [job.id]);
    }

    /// Adds until nothing is handed off any more. (A job that it kept would keep the next one from it, too.)
    async fn until_its_offer_ends(&self) {
        soon("its offer ends", async {
            loop {
                let added = self.add().await;
                if added.locked_by.is_none() {
                    return;
                }
                // Its claim is the moment at which it was stored.
                let token = ClaimToken::from_number(added.created_at.timestamp_micros());
                self.done(&ClaimedJob::new(added, token)).await;
            }
        })
        .await;
    }

    async fn receives_nothing(&self, when: &str) {
        for rest in [15, 30, 60] {
            assert_eq!(self.add().await.locked_by, None, "{when}");
            // Longer than one that did not take a job is left alone, so that it is asked again.
            tokio::time::sleep(Duration::from_millis(rest)).await;
        }
    }
}

/// A worker for jobs that end at once, which counts how often it starts one.
fn counting(client: &BackfillClient) -> (Worker, Arc<AtomicUsize>) {
    let starts = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&starts);
    let handler = task_fn("t", move |(): (), _: JobContext| {
        counted.fetch_add(1, Ordering::SeqCst);
        async {}
    });
    // A poll would find what was not notified.
    let builder = Worker::builder(client.clone()).task(handler).poll_interval(Duration::from_hours(1));
    (builder.event_capacity(100_000).handle_signals(false).build().expect("a worker"), starts)
}

/// A worker whose jobs wait for a permit each, and tell that they run.
fn held(client: &BackfillClient, concurrency: usize) -> (Worker, Arc<Semaphore>, Arc<Semaphore>) {
    let (runs, go) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let handler = {
        let (runs, go) = (Arc::clone(&runs), Arc::clone(&go));
        task_fn("t", move |(): (), _: JobContext| {
            let (runs, go) = (Arc::clone(&runs), Arc::clone(&go));
            async move {
                runs.add_permits(1);
                go.acquire().await.expect("open").forget();
            }
        })
    };
    let builder = Worker::builder(client.clone()).task(handler).concurrency(concurrency);
    (builder.event_capacity(100_000).handle_signals(false).build().expect("a worker"), runs, go)
}

/// Starts a worker, and waits until it listens.
async fn listening(worker: Worker) -> (Running, Events) {
    let mut events: Events = Box::pin(worker.events());
    let running = Running::of(worker);
    soon("it listens", async { while !matches!(events.next().await, Some(Event::Listening)) {} }).await;
    (running, events)
}

#[tokio::test]
async fn a_single_job_is_stored_as_claimed_by_an_idle_worker_and_runs_once() {
    let (client, pool, schema) = client().await;
    let (worker, starts) = counting(&client);
    let (running, mut events) = listening(worker).await;
    let added = add_until_handed(&client).await;
    assert_eq!((added.attempts, added.locked_at), (1, Some(added.created_at)));
    let id = ask(&pool, &schema, "select id from S.backfill_pools").await;
    assert_eq!(added.locked_by, Some(id));
    soon("it is told, starts and is written, and never claimed", async {
        let mut told = Vec::new();
        loop {
            match events.next().await.expect("it runs") {
                Event::HandedOff { job } if job.id == added.id => told.push("handed off"),
                Event::JobStarted { job } if job.id == added.id => {
                    assert_eq!((job.attempts, job.locked_at), (1, added.locked_at));
                    told.push("started");
                }
                Event::JobSucceeded { job, .. } if job.id == added.id => break,
                Event::Claimed { .. } if told == ["handed off"] => panic!("a claim came between"),
                _ => {}
            }
        }
        assert_eq!(told, ["handed off", "started"]);
    })
    .await;
    empty(&client).await;
    let summary = running.end().await;
    assert_eq!(summary.completed, u64::try_from(starts.load(Ordering::SeqCst)).expect("few"));
    assert_eq!((summary.released, summary.stale), (0, 0));
}

#[tokio::test]
async fn only_plain_single_jobs_of_the_clients_own_transaction_are_handed_off() {
    let (client, pool, _) = client().await;
    let (worker, _) = counting(&client);
    let (running, _events) = listening(worker).await;
    add_until_handed(&client).await;
    empty(&client).await;
    let plain = || JobSpec::new("t", ());
    let others = [
        ("a key", plain().key("k")),
        ("a queue", plain().serial_queue("q")),
        ("a flag", plain().flag("f")),
        ("a time", plain().run_in(Duration::from_millis(1))),
        // If its receiver died before it starts, it would be dead without having run.
        ("its last attempt before it", plain().max_attempts(1)),
        ("another task", JobSpec::new("unknown here", ())),
    ];
    for (what, spec) in others {
        let job = client.add(spec).await.expect("add");
        assert_eq!((job.locked_by, job.attempts), (None, 0), "{what}");
    }
    let many = client.add_many([plain(), plain()]).await.expect("add");
    assert!(many.iter().all(|job| job.locked_by.is_none()), "a batch");
    let mut tx = pool.begin().await.expect("begin");
    assert_eq!(
        client.add(plain()).within(&mut tx).await.expect("add").locked_by,
        None,
        "a transaction of the caller's"
    );
    tx.commit().await.expect("commit");
    add_until_handed(&client).await;
    until("all are done but the one nobody serves", || async { client.counts().await.expect("counts").total() == 1 })
        .await;
    running.end().await;
}

#[tokio::test]
async fn jobs_of_a_task_with_a_limit_of_its_own_are_claimed() {
    let (client, pool, schema) = client().await;
    let handler = || |(): (), _: JobContext| async {};
    let worker = Worker::builder(client.clone())
        .task(task_fn("limited", handler()).concurrency(1))
        .task(task_fn("t", handler()))
        .handle_signals(false)
        .build()
        .expect("a worker");
    let (running, _events) = listening(worker).await;
    add_until_handed(&client).await;
    assert_eq!(ask(&pool, &schema, "select tasks from S.backfill_pools").await, "{t}");
    for _ in 0..10 {
        assert_eq!(client.add(JobSpec::new("limited", ())).await.expect("add").locked_by, None);
    }
    empty(&client).await;
    running.end().await;
}

#[tokio::test]
async fn a_worker_that_is_full_or_was_told_not_to_is_handed_nothing() {
    let (client, _, _) = client().await;
    let (worker, runs, go) = held(&client, 1);
    let (running, _events) = listening(worker).await;
    // More than are added until the client has looked for workers, which may take seconds.
    go.add_permits(1_000_000);
    add_until_handed(&client).await;
    empty(&client).await;
    go.forget_permits(1_000_000);
    runs.forget_permits(1_000_000);
    // It is claimed, so that the last one which was handed off from here is done, and does not keep others from being.
    client.add_many([JobSpec::new("t", ())]).await.expect("add");
    soon("it runs", runs.acquire()).await.expect("open").forget();
    until("its offer ends", || async { client.add(JobSpec::new("t", ())).await.expect("add").locked_by.is_none() })
        .await;
    for rest in [15, 30, 60] {
        // Longer than one that did not take a job is left alone, so that it is asked again.
        tokio::time::sleep(Duration::from_millis(rest)).await;
        assert_eq!(client.add(JobSpec::new("t", ())).await.expect("add").locked_by, None, "while it is full");
    }
    go.add_permits(1_000);
    empty(&client).await;
    let summary = running.end().await;
    assert_eq!((summary.failed, summary.stale), (0, 0));

    let handler = task_fn("t", |(): (), _: JobContext| async {});
    let worker = Worker::builder(client.clone()).task(handler).accept_handoffs(false).handle_signals(false).build();
    let worker = worker.expect("a worker");
    let (running, _events) = listening(worker).await;
    for _ in 0..50 {
        assert_eq!(client.add(JobSpec::new("t", ())).await.expect("add").locked_by, None);
    }
    empty(&client).await;
    running.end().await;
}

#[tokio::test]
async fn a_job_that_comes_when_it_cannot_start_is_released_and_runs_elsewhere() {
    let (client, pool, schema) = client().await;
    let (worker, runs, go) = held(&client, 1);
    let (running, mut events) = listening(worker).await;
    client.add(JobSpec::new("t", ())).await.expect("add");
    soon("it runs", runs.acquire()).await.expect("open").forget();
    // As a client does whose transaction began while there was an offer.
    let hand_off = "
        with job as (
          insert into S._private_jobs (task_id, attempts, locked_at, locked_by)
          select task.id, 1, now(), pool.id from S._private_tasks task, S.backfill_pools pool where pool.handover is not null
          returning id
        )
        select pg_notify(pool.handover, job.id::text) from job, S.backfill_pools pool where pool.handover is not null";
    until("it tells where it hears", || async {
        ask(&pool, &schema, "select handover is not null from S.backfill_pools").await == "true"
    })
    .await;
    // Another one, that has looked already, does not receive it, and would look again in an hour.
    let handler = task_fn("t", |(): (), _: JobContext| async {});
    let builder = Worker::builder(client.clone()).task(handler).poll_interval(Duration::from_hours(1));
    let other = builder.accept_handoffs(false).handle_signals(false).build().expect("a worker");
    let (other, mut others) = listening(other).await;
    soon("it looks", async { while !matches!(others.next().await, Some(Event::Claimed { .. })) {} }).await;
    sql(&pool, &schema, hand_off).await;
    soon("it is released", async {
        while !matches!(events.next().await.expect("it runs"), Event::Released { jobs: 1 }) {}
    })
    .await;
    soon("it runs elsewhere", async {
        loop {
            if let Event::JobSucceeded { job, .. } = others.next().await.expect("it runs") {
                assert_eq!(job.attempts, 1, "it has its attempt back");
                break;
            }
        }
    })
    .await;
    go.add_permits(1);
    empty(&client).await;
    other.end().await;
    let summary = running.end().await;
    assert_eq!((summary.completed, summary.released), (1, 1));
}

#[tokio::test]
async fn a_notification_of_a_job_that_runs_already_starts_nothing() {
    let (client, pool, schema) = client().await;
    let (worker, runs, go) = held(&client, 10);
    let (running, _events) = listening(worker).await;
    let job = client.add(JobSpec::new("t", ())).await.expect("add");
    soon("it runs", runs.acquire()).await.expect("open").forget();
    until("it offers", || async {
        ask(&pool, &schema, "select handover is not null from S.backfill_pools").await == "true"
    })
    .await;
    let forged = format!("select pg_notify(handover, '{}') from S.backfill_pools", job.id);
    for _ in 0..3 {
        ask(&pool, &schema, &forged).await;
    }
    // What was notified before is heard before.
    client.add_many([JobSpec::new("t", ())]).await.expect("add");
    soon("the next one runs", runs.acquire()).await.expect("open").forget();
    assert_eq!(runs.available_permits(), 0, "nothing else does");
    go.add_permits(2);
    empty(&client).await;
    assert_eq!(running.end().await.completed, 2);
}

/// Plays what is handed off without being heard.
const UNHEARD: &str = "insert into S._private_jobs (task_id, attempts, locked_at, locked_by)
    select task.id, 1, now(), pool.id from S._private_tasks task, S.backfill_pools pool";

#[tokio::test]
async fn what_was_handed_off_and_not_heard_is_released_when_the_listener_was_lost() {
    let (pool, url) = database().await;
    let client = BackfillClient::new(&url).await.expect("migrate");
    let (worker, starts) = counting(&client);
    let (running, _events) = listening(worker).await;
    add_until_handed(&client).await;
    empty(&client).await;
    let before = starts.load(Ordering::SeqCst);
    sql(&pool, "graphile_worker", UNHEARD).await;
    let kill = format!("select count(pg_terminate_backend(pid)) from pg_stat_activity where {LISTENS}");
    until("the listener is gone", || async { ask(&pool, "x", &kill).await != "0" }).await;
    until("it runs all the same", || async { starts.load(Ordering::SeqCst) == before + 1 }).await;
    empty(&client).await;
    add_until_handed(&client).await;
    empty(&client).await;
    let summary = running.end().await;
    assert_eq!((summary.failed, summary.stale), (0, 0), "and what ran was not released");
}

#[tokio::test]
async fn what_is_handed_off_at_the_end_is_released() {
    let (client, pool, schema) = client().await;
    let (worker, starts) = counting(&client);
    let (running, _events) = listening(worker).await;
    add_until_handed(&client).await;
    empty(&client).await;
    let before = starts.load(Ordering::SeqCst);
    sql(&pool, &schema, UNHEARD).await;
    running.end().await;
    let waits = "select count(*) from S._private_jobs where locked_by is null and attempts = 0";
    assert_eq!(ask(&pool, &schema, waits).await, "1");
    assert_eq!(starts.load(Ordering::SeqCst), before);
}

#[tokio::test]
async fn a_client_hands_one_job_at_a_time_to_each_worker_for_it_may_be_dead() {
    let (client, _, _) = client().await;
    let mut receiver = HandoffReceiver::of(&client).await;
    let handed_off = receiver.handed_off().await;
    receiver.receives_nothing("while it holds the last one").await;
    receiver.done(&handed_off.job).await;
    receiver.take_one().await;
}

#[tokio::test]
async fn nobody_waits_for_who_looks_after_the_takers_row() {
    let (client, pool, schema) = client().await;
    let mut receiver = HandoffReceiver::of(&client).await;
    receiver.take_one().await;
    let mut rescuer = pool.begin().await.expect("begin");
    let lock = format!("select from \"{schema}\".backfill_pools for update");
    sqlx::raw_sql(sqlx::AssertSqlSafe(lock)).execute(&mut *rescuer).await.expect("lock");
    soon("adding", receiver.receives_nothing("while its row is locked")).await;
    rescuer.rollback().await.expect("rollback");
    receiver.take_one().await;
}

#[tokio::test]
async fn an_offer_ends_when_it_is_taken_back_and_when_its_worker_is_declared_dead() {
    let (client, pool, schema) = client().await;
    let mut receiver = HandoffReceiver::of(&client).await;
    receiver.take_one().await;
    let offer = receiver.offers.send_replace(None).expect("it offered");
    receiver.until_its_offer_ends().await;
    receiver.receives_nothing("after the end of the offer").await;
    receiver.offers.send_replace(Some(Offer::new(offer.worker, offer.tasks, 2)));
    receiver.take_one().await;
    sql(&pool, &schema, "update S.backfill_pools set seen_at = 'epoch'").await;
    receiver.receives_nothing("of a worker that was declared dead").await;
    sql(&pool, &schema, "update S.backfill_pools set seen_at = now()").await;
    receiver.take_one().await;
}

#[tokio::test]
async fn to_release_what_is_unknown_ends_an_offer_and_another_one_begins_anew() {
    let (client, pool, schema) = client().await;
    let mut receiver = HandoffReceiver::of(&client).await;
    receiver.take_one().await;
    sql(&pool, &schema, UNHEARD).await;
    assert_eq!(client.storage().consumer().release_untracked(&receiver.worker, &[]).await.expect("release"), 1);
    receiver.receives_nothing("after releasing what is unknown").await;
    let offer = receiver.offers.send_replace(None).expect("it offered");
    receiver.offers.send_replace(Some(Offer::new(offer.worker, offer.tasks, 2)));
    receiver.take_one().await;
}

#[tokio::test]
async fn an_offer_ends_with_its_session() {
    let (client, _, _) = client().await;
    let mut receiver = HandoffReceiver::of(&client).await;
    receiver.take_one().await;
    receiver.listening.abort();
    receiver.until_its_offer_ends().await;
    receiver.receives_nothing("after the end of its session").await;
}

#[tokio::test]
async fn a_role_that_may_not_lock_pools_adds_as_ever() {
    let (admin, url) = database().await;
    let owner = BackfillClient::new(&url).await.expect("migrate");
    let (worker, _) = counting(&owner);
    let (running, _events) = listening(worker).await;
    let role = support::unique("adder");
    sql(
        &admin,
        "graphile_worker",
        &format!(
            "create role {role} login bypassrls; grant usage on schema S to {role};
             grant select on all tables in schema S to {role};
             grant insert, update on S._private_jobs to {role};
             grant insert on S._private_tasks, S._private_job_queues to {role}"
        )
        .replace(" schema S ", " schema graphile_worker "),
    )
    .await;
    let adder = adder(&url, &role).await;
    for _ in 0..20 {
        assert_eq!(adder.add(JobSpec::new("t", ())).await.expect("add").locked_by, None);
    }
    sql(&admin, "graphile_worker", &format!("grant update (started_at) on S.backfill_pools to {role}")).await;
    let adder = self::adder(&url, &role).await;
    add_until_handed(&adder).await;
    sql(&admin, "graphile_worker", &format!("revoke update (started_at) on S.backfill_pools from {role}")).await;
    for _ in 0..20 {
        assert_eq!(adder.add(JobSpec::new("t", ())).await.expect("add").locked_by, None, "after it was revoked");
    }
    empty(&owner).await;
    running.end().await;
}

async fn adder(url: &str, role: &str) -> BackfillClient {
    let url = url.replace("//postgres@", &format!("//{role}@"));
    BackfillClient::builder()
        .pool(PgPool::connect(&url).await.expect("log in"))
        .migrate(false)
        .build()
        .await
        .expect("ready")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_that_come_from_many_clients_while_workers_come_and_go_all_run_once() {
    const EACH: usize = 150;
    let (pool, url) = database().await;
    let ground = BackfillClient::new(&url).await.expect("migrate");
    sql(&pool, "graphile_worker", "create table public.starts (id bigint not null)").await;
    let worker = || {
        let starts = pool.clone();
        let handler = task_fn("t", move |(): (), ctx: JobContext| {
            let starts = starts.clone();
            async move {
                sqlx::query("insert into public.starts values ($1)")
                    .bind(ctx.job().id.number())
                    .execute(&starts)
                    .await?;
                Ok::<_, sqlx::Error>(())
            }
        });
        Running::start(Worker::builder(ground.clone()).task(handler).concurrency(4))
    };
    let mut clients = Vec::new();
    let first = worker();
    until("it offers", || async {
        ask(&pool, "graphile_worker", "select count(handover) from S.backfill_pools").await == "1"
    })
    .await;
    for _ in 0..4 {
        let client = BackfillClient::new(&url).await.expect("connect");
        add_until_handed(&client).await;
        clients.push(client);
    }
    empty(&ground).await;
    sql(&pool, "graphile_worker", "truncate public.starts").await;
    let adding = futures::future::join_all(clients.iter().map(|client| async move {
        let mut handed_off = 0;
        for _ in 0..EACH {
            handed_off += usize::from(client.add(JobSpec::new("t", ())).await.expect("add").locked_by.is_some());
        }
        handed_off
    }));
    let coming_and_going = async {
        // The one that the clients know stays for half of the time; of the others they may or may not hear.
        let mut first = Some(first);
        for round in 0..6 {
            if round == 3
                && let Some(first) = first.take()
            {
                first.end().await;
            }
            let (one, two) = (worker(), worker());
            tokio::time::sleep(Duration::from_millis(150)).await;
            one.end().await;
            two.end().await;
        }
    };
    let (handed_off, ()) = tokio::join!(adding, coming_and_going);
    let last = worker();
    empty(&ground).await;
    last.end().await;
    let counts = ask(&pool, "x", "select count(*) || ' ' || count(distinct id) from public.starts").await;
    assert_eq!(counts, format!("{0} {0}", 4 * EACH));
    assert!(handed_off.iter().sum::<usize>() > 0, "some were handed off");
}
