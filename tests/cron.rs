//! The scheduler, by a clock that the tests move.

mod support;

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backfill::cron::{CronEvent, Dialect, Schedule};
use backfill::testing::{Faults, FaultyStorage};
use backfill::{BackfillClient, Clock, CronEntry, Crontab, Event, EventStream, JobContext, JobFilter, Worker, task_fn};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use sqlx::PgPool;
use support::running::Running;
use support::{ask, client, soon, sql, until};

/// A clock that shows a minute of 2030 and runs on from there, until it is moved.
#[derive(Clone)]
struct Dial(Arc<AtomicI64>);

impl Dial {
    /// Half a minute past this time.
    fn at(time: &str) -> Self {
        let time: DateTime<Utc> = time.parse().expect("a time");
        let offset = (time + TimeDelta::seconds(30) - Utc::now()).num_milliseconds();
        Self(Arc::new(AtomicI64::new(offset)))
    }

    fn clock(&self) -> Clock {
        let offset = Arc::clone(&self.0);
        Clock::custom(move || Utc::now() + TimeDelta::milliseconds(offset.load(Ordering::SeqCst)))
    }

    fn turn(&self, by: TimeDelta) {
        self.0.fetch_add(by.num_milliseconds(), Ordering::SeqCst);
    }
}

const START: &str = "2030-01-01T10:00:00Z";

fn crontab(text: &str) -> Crontab {
    text.parse().unwrap_or_else(|error| panic!("{error}"))
}

/// A worker that runs the crontab and no jobs, and its events.
fn scheduler(client: &BackfillClient, dial: &Dial, crontab: Crontab) -> (Running, EventStream) {
    let builder = Worker::builder(client.clone().with_clock(dial.clock())).crontab(crontab).handle_signals(false);
    let worker = builder.build().expect("worker");
    let events = worker.events();
    (Running::of(worker), events)
}

async fn cron_event(events: &mut EventStream, what: &str, wanted: impl Fn(&CronEvent) -> bool) -> CronEvent {
    soon(what, async {
        loop {
            match events.next().await.expect("the worker runs") {
                Event::Cron(event) if wanted(&event) => return event,
                Event::Lagged { missed } => panic!("{missed} events are lost"),
                _ => {}
            }
        }
    })
    .await
}

async fn started(events: &mut EventStream) {
    cron_event(events, "the scheduler starts", |event| matches!(event, CronEvent::Started { .. })).await;
}

/// The jobs of a task: minute of `run_at`, and whether it was backfilled.
async fn jobs(client: &BackfillClient, task: &str) -> Vec<(String, bool)> {
    let jobs = client.jobs(&JobFilter::new().task(task).limit(10_000)).await.expect("jobs");
    let mut told: Vec<(String, bool)> = jobs
        .iter()
        .map(|job| {
            let payload: Value = job.payload.decode().expect("JSON");
            let cron = &payload["_cron"];
            let ts: DateTime<Utc> = cron["ts"].as_str().expect("a time").parse().expect("a time");
            assert_eq!(ts, job.run_at, "the payload says when it was due");
            (job.run_at.format("%H:%M").to_string(), cron["backfilled"].as_bool().expect("it says so"))
        })
        .collect();
    told.sort();
    told
}

fn minutes(of: &[(String, bool)]) -> Vec<&str> {
    of.iter().map(|(minute, _)| minute.as_str()).collect()
}

async fn has(client: &BackfillClient, task: &str, count: usize) {
    until(&format!("{task} has {count} jobs"), || async { jobs(client, task).await.len() >= count }).await;
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_workers_with_one_crontab_add_one_job_per_entry_and_minute() {
    let (client, pool, schema) = client().await;
    let dial = Dial::at(START);
    let text = "* * * * * every ?queue=q&priority=-3&max=7 {a: 1}\n*/2 * * * * even ?jobKey=even\n0 0 1 2 * never";
    let (mut workers, mut streams) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let (worker, mut events) = scheduler(&client, &dial, crontab(text));
        started(&mut events).await;
        workers.push(worker);
        streams.push(events);
    }
    for passed in 1..=4 {
        dial.turn(TimeDelta::minutes(1));
        has(&client, "every", passed).await;
        let mut added = 0;
        for events in &mut streams {
            let of_this = |name: &str| name == "every";
            let told = cron_event(events, "each worker tells what became of it", |event| match event {
                CronEvent::Added { identifier, .. } | CronEvent::Taken { identifier, .. } => of_this(identifier),
                _ => false,
            });
            added += usize::from(matches!(told.await, CronEvent::Added { .. }));
        }
        assert_eq!(added, 1, "to one of them it was its own, to the others taken");
    }
    for worker in workers {
        worker.end().await;
    }
    assert_eq!(minutes(&jobs(&client, "every").await), ["10:01", "10:02", "10:03", "10:04"]);
    // Its key lets the later job take the place of the earlier one.
    assert_eq!(minutes(&jobs(&client, "even").await), ["10:04"]);
    assert!(jobs(&client, "never").await.is_empty());
    let job = &client.jobs(&JobFilter::new().task("every").limit(1)).await.expect("jobs")[0];
    assert_eq!((job.queue.as_deref(), job.priority.0, job.max_attempts), (Some("q"), -3, 7));
    let known = "select string_agg(identifier || coalesce(extract(minute from last_execution)::int::text, '-'), ',' order by identifier) from S._private_known_crontabs";
    assert_eq!(ask(&pool, &schema, known).await, "even4,every4,never-");
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_missed_while_no_worker_ran_is_caught_up_within_fill_but_never_before_the_first_sight() {
    let (client, _, _) = client().await;
    let dial = Dial::at(START);
    let text = "* * * * * filled ?fill=3m\n* * * * * plain";
    let (worker, mut events) = scheduler(&client, &dial, crontab(text));
    started(&mut events).await;
    worker.end().await;
    assert!(jobs(&client, "filled").await.is_empty(), "an entry that was never seen is due from now on");

    // Two minutes go by: since the first sight, that is less than `fill`.
    dial.turn(TimeDelta::minutes(2));
    let (worker, mut events) = scheduler(&client, &dial, crontab(text));
    started(&mut events).await;
    has(&client, "filled", 2).await;
    worker.end().await;
    assert_eq!(jobs(&client, "filled").await, [("10:01".to_owned(), true), ("10:02".to_owned(), true)]);

    dial.turn(TimeDelta::minutes(30));
    let (worker, mut events) = scheduler(&client, &dial, crontab(text));
    cron_event(&mut events, "it catches up", |event| matches!(event, CronEvent::Backfilling { .. })).await;
    has(&client, "filled", 5).await;
    worker.end().await;
    assert_eq!(minutes(&jobs(&client, "filled").await)[2..], ["10:30", "10:31", "10:32"]);
    assert!(jobs(&client, "plain").await.is_empty());
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_due_while_the_storage_was_away_is_caught_up_within_fill_when_it_is_back() {
    let (inner, _, _) = client().await;
    let faults = Arc::new(Faults::default());
    let faulty = FaultyStorage::new(inner.storage().clone(), Arc::clone(&faults));
    let client = BackfillClient::with_storage(Arc::new(faulty));
    let dial = Dial::at(START);
    let (worker, mut events) =
        scheduler(&client, &dial, crontab("* * * * * filled ?fill=1h\n* * * * * little ?fill=3m\n* * * * * plain"));
    started(&mut events).await;
    faults.away();
    dial.turn(TimeDelta::minutes(1));
    cron_event(&mut events, "it notices", |event| matches!(event, CronEvent::Unavailable { .. })).await;
    dial.turn(TimeDelta::minutes(9));
    cron_event(
        &mut events,
        "plain misses some",
        |event| matches!(event, CronEvent::Missed { identifier, .. } if identifier == "plain"),
    )
    .await;
    faults.back();
    has(&client, "plain", 1).await;
    has(&client, "filled", 10).await;
    dial.turn(TimeDelta::minutes(1));
    has(&client, "plain", 2).await;
    worker.end().await;
    let filled = jobs(&client, "filled").await;
    assert_eq!(minutes(&filled).first().zip(minutes(&filled).last()), Some((&"10:01", &"10:11")));
    assert_eq!(filled.len(), 11, "every minute is there");
    assert_eq!(filled[0], ("10:01".to_owned(), true));
    assert_eq!(filled[10], ("10:11".to_owned(), false));
    // A moment less than a minute old still counts as the present.
    assert_eq!(jobs(&client, "plain").await, [("10:10".to_owned(), false), ("10:11".to_owned(), false)]);
    assert_eq!(minutes(&jobs(&client, "little").await), ["10:08", "10:09", "10:10", "10:11"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_jumps_forward_misses_nothing_and_one_set_back_repeats_nothing() {
    let client = BackfillClient::in_memory();
    let dial = Dial::at(START);
    let (worker, mut events) = scheduler(&client, &dial, crontab("* * * * * every"));
    started(&mut events).await;
    dial.turn(TimeDelta::minutes(5));
    cron_event(&mut events, "it is late", |event| matches!(event, CronEvent::Late { .. })).await;
    has(&client, "every", 5).await;
    let first = jobs(&client, "every").await;
    assert_eq!(minutes(&first), ["10:01", "10:02", "10:03", "10:04", "10:05"]);
    assert!(first.iter().all(|(_, backfilled)| !backfilled));

    // Back by three minutes, and on by one: these minutes had their jobs.
    dial.turn(TimeDelta::minutes(-3));
    dial.turn(TimeDelta::minutes(1));
    dial.turn(TimeDelta::minutes(3));
    has(&client, "every", 6).await;
    assert_eq!(minutes(&jobs(&client, "every").await)[5..], ["10:06"]);

    // More than an hour late: not everything is made up for.
    dial.turn(TimeDelta::hours(30));
    let missed = cron_event(&mut events, "some are missed", |event| matches!(event, CronEvent::Missed { .. })).await;
    assert!(matches!(missed, CronEvent::Missed { from, .. } if from.format("%H:%M").to_string() == "10:07"));
    has(&client, "every", 60).await;

    dial.turn(TimeDelta::hours(-48));
    cron_event(&mut events, "it starts anew", |event| matches!(event, CronEvent::SetBack { .. })).await;
    started(&mut events).await;
    worker.end().await;
}

/// Whatever the database thinks of a job, such as a trigger that a user has put there.
async fn refuse_jobs_of(pool: &PgPool, schema: &str, task: &str, code: &str) {
    let text = format!(
        "create or replace function S.refuse() returns trigger language plpgsql as $$ begin
           if new.task_id = (select id from S._private_tasks where identifier = '{task}') then
             raise exception 'no such jobs' using errcode = '{code}'; end if; return new; end $$;
         drop trigger if exists refuse on S._private_jobs;
         create trigger refuse before insert on S._private_jobs for each row execute function S.refuse()"
    );
    sql(pool, schema, &text).await;
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_entry_that_the_database_refuses_never_stops_the_others() {
    let (client, pool, schema) = client().await;
    let dial = Dial::at(START);
    let (worker, mut events) = scheduler(&client, &dial, crontab("* * * * * bad\n* * * * * good\n* * * * * better"));
    started(&mut events).await;
    for (passed, code) in (1..=2).zip(["23514", "AB001"]) {
        refuse_jobs_of(&pool, &schema, "bad", code).await;
        dial.turn(TimeDelta::minutes(1));
        let refused =
            cron_event(&mut events, "it is refused", |event| matches!(event, CronEvent::Refused { .. })).await;
        assert!(
            matches!(refused, CronEvent::Refused { identifier, error, .. } if identifier == "bad" && error.contains("no such jobs"))
        );
        has(&client, "better", passed).await;
    }
    worker.end().await;
    assert_eq!(minutes(&jobs(&client, "good").await), ["10:01", "10:02"]);
    assert!(jobs(&client, "bad").await.is_empty());
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_refused_for_what_may_pass_stops_no_other_and_goes_on_when_it_has_passed() {
    let (client, pool, schema) = client().await;
    let dial = Dial::at(START);
    let (worker, mut events) = scheduler(&client, &dial, crontab("* * * * * bad\n*/2 * * * * good"));
    started(&mut events).await;
    refuse_jobs_of(&pool, &schema, "bad", "42501").await;
    // At 10:01 only the bad one is due, and it is asked for again and again.
    for _ in 0..2 {
        dial.turn(TimeDelta::minutes(1));
        for _ in 0..2 {
            cron_event(&mut events, "it is refused", |event| matches!(event, CronEvent::Unavailable { .. })).await;
        }
    }
    has(&client, "good", 1).await;
    dial.turn(TimeDelta::minutes(2));
    has(&client, "good", 2).await;
    assert_eq!(minutes(&jobs(&client, "good").await), ["10:02", "10:04"]);
    sql(&pool, &schema, "drop trigger refuse on S._private_jobs").await;
    until("the refused one goes on", || async { !jobs(&client, "bad").await.is_empty() }).await;
    worker.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_made_in_code_and_of_the_extended_dialect_are_run_and_their_jobs_too() {
    let client = BackfillClient::in_memory();
    let dial = Dial::at(START);
    let ran: Arc<Mutex<Vec<(String, String)>>> = Arc::default();
    let task = |name: &'static str| {
        let ran = Arc::clone(&ran);
        task_fn(name, move |payload: Value, ctx: JobContext| {
            let ts = payload["_cron"]["ts"].as_str().unwrap_or_default().to_owned();
            ran.lock().expect("lock").push((ctx.job().task.clone(), ts));
            async {}
        })
    };
    let extended = Crontab::parse("*/20 * * * * * seconds", Dialect::Extended).expect("crontab");
    let asked = Arc::new(AtomicI64::new(0));
    let counter = Arc::clone(&asked);
    let builder = Worker::builder(client.clone().with_clock(dial.clock()))
        .task(task("seconds"))
        .task(task("expression"))
        .task(task("closure"))
        .crontab(extended)
        .cron(CronEntry::new("expression", Schedule::expression("0 * * * * *").expect("expression")))
        .cron(CronEntry::new(
            "closure",
            Schedule::when(move |minute| {
                counter.fetch_add(1, Ordering::SeqCst);
                minute.timestamp() / 60 % 2 == 1
            }),
        ))
        .poll_interval(Duration::from_millis(50))
        .handle_signals(false);
    let worker = builder.build().expect("worker");
    let mut events = worker.events();
    let worker = Running::of(worker);
    started(&mut events).await;
    dial.turn(TimeDelta::seconds(60));
    until("they ran", || async { ran.lock().expect("lock").len() >= 5 }).await;
    worker.end().await;
    let mut ran = ran.lock().expect("lock").clone();
    ran.sort();
    let expected = [
        ("closure", "2030-01-01T10:01:00.000Z"),
        ("expression", "2030-01-01T10:01:00.000Z"),
        ("seconds", "2030-01-01T10:00:40.000Z"),
        ("seconds", "2030-01-01T10:01:00.000Z"),
        ("seconds", "2030-01-01T10:01:20.000Z"),
    ];
    let expected: Vec<(String, String)> = expected.map(|(task, ts)| (task.to_owned(), ts.to_owned())).into();
    assert_eq!(ran[..5], expected[..]);
    assert_eq!(asked.load(Ordering::SeqCst), 1, "a closure is asked once, when its minute comes");
}

#[tokio::test]
async fn a_crontab_that_cannot_work_is_refused_when_the_worker_is_built() {
    let client = BackfillClient::in_memory();
    let always = || Schedule::when(|_| true);
    let twice = Worker::builder(client.clone())
        .crontab(crontab("* * * * * t"))
        .cron(CronEntry::new("t", always()))
        .build()
        .unwrap_err()
        .to_string();
    assert!(twice.contains("two crontab entries have the identifier \"t\""), "{twice}");
    let bad = Worker::builder(client).cron(CronEntry::new("t", always()).key("")).build().unwrap_err().to_string();
    assert!(bad.contains("job key"), "{bad}");
}
