//! Steering a worker while it runs, and what it says of why it asks for nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use backfill::worker::{Event, EventStream, Hold};
use backfill::{BackfillClient, Handler, JobSpec, task_fn};
use tokio::sync::{Semaphore, watch};

/// Jobs that run until they are let go, and how many do.
#[derive(Clone)]
struct Probe {
    running: Arc<watch::Sender<usize>>,
    most: Arc<AtomicUsize>,
    gate: Arc<Semaphore>,
}

impl Probe {
    fn new() -> Self {
        let (running, most) = (Arc::new(watch::Sender::new(0)), Arc::default());
        Self { running, most, gate: Arc::new(Semaphore::new(0)) }
    }

    fn task(&self, name: &str) -> Handler {
        let probe = self.clone();
        task_fn(name, move |(): (), _| {
            let probe = probe.clone();
            async move {
                probe.running.send_modify(|running| *running += 1);
                probe.most.fetch_max(*probe.running.borrow(), Ordering::SeqCst);
                probe.gate.acquire().await.expect("it is open").forget();
                probe.running.send_modify(|running| *running -= 1);
            }
        })
    }

    async fn until_running(&self, jobs: usize) {
        let mut running = self.running.subscribe();
        let reached = running.wait_for(|running| *running == jobs);
        tokio::time::timeout(Duration::from_secs(30), reached).await.expect("in time").expect("it is there");
    }
}

async fn add(jobs: &BackfillClient, task: &str, count: usize) {
    jobs.add_many((0..count).map(|_| JobSpec::new(task, ()))).await.expect("add");
}

async fn until_holding(events: &mut EventStream, reason: Hold) {
    let told = async {
        loop {
            if let Some(Event::Holding { reason: told }) = events.next().await
                && told == reason
            {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), told).await.unwrap_or_else(|_| panic!("{reason} was not told"));
}

/// Waits until the worker has taken up what its handle was told.
async fn until_changed(events: &mut EventStream) {
    let told = async { while !matches!(events.next().await, Some(Event::WorkChanged { .. })) {} };
    tokio::time::timeout(Duration::from_secs(30), told).await.expect("in time");
}

#[tokio::test]
async fn concurrency_and_limits_change_while_a_worker_runs() {
    let (jobs, probe) = (BackfillClient::in_memory(), Probe::new());
    add(&jobs, "held", 20).await;
    let worker = jobs.worker().task(probe.task("held")).concurrency(2).handle_signals(false).build().expect("worker");
    let (handle, mut events) = (worker.handle(), worker.events());
    let run = tokio::spawn(async move { worker.run().await });
    probe.until_running(2).await;
    handle.set_concurrency(5).expect("more");
    probe.until_running(5).await;
    // Those that run go on, and no other starts in their place.
    until_changed(&mut events).await;
    handle.set_concurrency(1).expect("fewer");
    until_changed(&mut events).await;
    for left in [4, 3, 2, 1] {
        probe.gate.add_permits(1);
        probe.until_running(left).await;
    }
    handle.set_concurrency(8).expect("more");
    probe.until_running(8).await;
    until_changed(&mut events).await;
    handle.set_limit("held", Some(3)).expect("a limit");
    until_changed(&mut events).await;
    probe.gate.add_permits(5);
    probe.until_running(3).await;
    handle.set_limit("held", None).expect("no limit");
    probe.until_running(8).await;
    assert_eq!((handle.concurrency(), probe.most.load(Ordering::SeqCst)), (8, 8));
    probe.gate.add_permits(20);
    probe.until_running(0).await;
    handle.shutdown().shutdown();
    assert_eq!(run.await.expect("no panic").expect("run").completed, 20);
}

#[tokio::test]
async fn tasks_are_added_and_removed_one_by_one_and_mistakes_change_nothing() {
    let (jobs, probe) = (BackfillClient::in_memory(), Probe::new());
    let worker = jobs.worker().task(probe.task("a")).handle_signals(false).build().expect("worker");
    let handle = worker.handle();
    for mistake in [handle.set_concurrency(0), handle.set_limit("b", None), handle.remove_task("b")] {
        assert!(mistake.is_err());
    }
    assert!(handle.set_limit("a", Some(0)).expect_err("none at all").to_string().contains('a'));
    assert_eq!((handle.tasks(), handle.concurrency()), (vec!["a".to_owned()], 10));
    let mut events = worker.events();
    let run = tokio::spawn(async move { worker.run().await });
    until_holding(&mut events, Hold::NothingReady).await;
    handle.add_task(probe.task("b")).expect("another");
    add(&jobs, "b", 1).await;
    probe.until_running(1).await;
    until_changed(&mut events).await;
    handle.remove_task("a").expect("it was there");
    until_changed(&mut events).await;
    add(&jobs, "a", 1).await;
    add(&jobs, "b", 1).await;
    probe.until_running(2).await;
    probe.gate.add_permits(2);
    probe.until_running(0).await;
    handle.shutdown().shutdown();
    assert_eq!(run.await.expect("no panic").expect("run").completed, 2);
    assert_eq!(jobs.counts().await.expect("counts").ready, 1, "nobody runs it");
}

#[tokio::test]
async fn a_worker_says_why_it_asks_for_nothing() {
    let (jobs, probe) = (BackfillClient::in_memory(), Probe::new());
    let limited = probe.task("limited").concurrency(1);
    let worker = jobs.worker().task(limited).concurrency(2).handle_signals(false).build().expect("worker");
    let (handle, mut events) = (worker.handle(), worker.events());
    let run = tokio::spawn(async move { worker.run().await });
    until_holding(&mut events, Hold::NothingReady).await;
    add(&jobs, "limited", 2).await;
    until_holding(&mut events, Hold::TasksFull).await;
    handle.set_limit("limited", None).expect("no limit");
    until_holding(&mut events, Hold::Full).await;
    handle.shutdown().shutdown();
    until_holding(&mut events, Hold::Ending).await;
    probe.gate.add_permits(2);
    run.await.expect("no panic").expect("run");
}

#[tokio::test]
async fn what_a_job_adds_when_it_is_done_is_there_once_and_only_if_it_is_done() {
    let jobs = BackfillClient::in_memory();
    let charge = task_fn("charge", |fails: bool, ctx: backfill::JobContext| async move {
        ctx.add_when_done(JobSpec::new("send_invoice", 17).key("invoice 17"))?;
        assert!(ctx.add_when_done(JobSpec::new("again", 17).key("invoice 17")).is_err(), "the key is taken");
        assert!(ctx.add_when_done(JobSpec::new("", 17)).is_err(), "no task has this name");
        if fails { Err(backfill::TaskError::new("no").permanent()) } else { Ok(()) }
    });
    for (fails, left) in [(true, 0), (false, 1)] {
        jobs.add(JobSpec::new("charge", fails)).await.expect("add");
        jobs.worker().task(charge.clone()).run_until_idle().await.expect("run");
        let invoices = jobs.jobs(&backfill::JobFilter::new().task("send_invoice")).await.expect("jobs");
        assert_eq!(invoices.len(), left, "fails: {fails}");
    }
}

#[tokio::test]
async fn why_a_job_does_not_run_is_told() {
    use backfill::explain::Reason;

    let (jobs, probe) = (BackfillClient::in_memory(), Probe::new());
    let why = async |id| jobs.why(id).await.expect("why").map(|reasons| reasons[0].clone());
    let first = jobs.add(JobSpec::new("held", ()).serial_queue("q")).await.expect("add").id;
    let second = jobs.add(JobSpec::new("held", ()).serial_queue("q")).await.expect("add").id;
    let later = jobs.add(JobSpec::new("held", ()).run_in(Duration::from_secs(3600))).await.expect("add").id;
    let other = jobs.add(JobSpec::new("hold", ())).await.expect("add").id;
    assert_eq!(why(first).await, Some(Reason::NoWorkers));
    assert!(matches!(why(second).await, Some(Reason::Behind { job, .. }) if job == first));
    assert!(matches!(why(later).await, Some(Reason::NotDue { .. })));
    let worker = jobs.worker().task(probe.task("held")).concurrency(1).handle_signals(false);
    let worker = worker.heartbeat_every(Duration::from_millis(20)).dead_after(Duration::from_secs(10));
    let worker = worker.build().expect("worker");
    let handle = worker.handle();
    let run = tokio::spawn(async move { worker.run().await });
    probe.until_running(1).await;
    assert!(matches!(why(first).await, Some(Reason::Running { .. })));
    assert!(matches!(why(second).await, Some(Reason::QueueHeld { job, .. }) if job == first));
    assert!(matches!(why(other).await, Some(Reason::NotServed { task, .. }) if task == "hold"));
    let plain = jobs.add(JobSpec::new("held", ())).await.expect("add").id;
    // It is told with a heartbeat.
    let full = async {
        while !matches!(why(plain).await, Some(Reason::Full { .. })) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), full).await.expect("it is told");
    assert_eq!(jobs.why(i64::MAX).await.expect("why"), None);
    handle.shutdown().force();
    run.await.expect("no panic").expect("run");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_presence_is_registered_without_an_engine_until_it_ends_or_is_lost() {
    use backfill::storage::ClaimRequest;
    use backfill::worker::{Presence, Timing};

    let jobs = BackfillClient::in_memory();
    let timing = Timing::default().heartbeat_every(Duration::from_millis(20)).dead_after(Duration::from_secs(5));
    let tasks = ["t".to_owned()];
    assert!(Presence::begin(&jobs, &tasks, timing.dead_after(Duration::from_millis(30))).await.is_err());
    let presence = Presence::begin(&jobs, &tasks, timing).await.expect("begin");
    jobs.add(JobSpec::new("t", ())).await.expect("add");
    let request = ClaimRequest::new(presence.worker(), &tasks, 5);
    assert_eq!(presence.consumer().claim(&request).await.expect("claim").jobs.len(), 1);
    presence.end().await.expect("end");
    assert_eq!(jobs.counts().await.expect("counts").ready, 1, "what it held is released");
    assert!(jobs.workers().await.expect("workers").is_empty());
    // One that an administrator unlocks finds that it is lost.
    let presence = Presence::begin(&jobs, &tasks, timing).await.expect("begin");
    assert!(!presence.is_lost());
    jobs.unlock([presence.worker().to_string()]).await.expect("unlock");
    tokio::time::timeout(Duration::from_secs(30), presence.lost()).await.expect("in time");
    assert!(presence.is_lost() && presence.consumer().name() == "memory");
}
