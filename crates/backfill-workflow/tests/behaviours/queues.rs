//! Queues.

use std::time::Duration;

use backfill_workflow::{Ctx, EngineBuilder, Error, Failure, Filter, OnDuplicate, Queue, Start, Status, Workflow};

use crate::place::{Counter, Place, within};

const LONG: Duration = Duration::from_secs(60);

/// A workflow that runs until it is told to end, and counts who runs at once.
struct Gate {
    begun: Counter,
    running: Counter,
    peak: Counter,
    open: tokio::sync::watch::Sender<bool>,
}

impl Gate {
    fn new() -> std::sync::Arc<Self> {
        let (begun, running, peak) = (Counter::new(), Counter::new(), Counter::new());
        std::sync::Arc::new(Self { begun, running, peak, open: tokio::sync::watch::Sender::new(false) })
    }

    fn register(self: &std::sync::Arc<Self>, builder: &mut EngineBuilder) -> Workflow<u32, u32> {
        let gate = std::sync::Arc::clone(self);
        builder.register("gated", move |_: Ctx, number: u32| {
            let gate = std::sync::Arc::clone(&gate);
            async move {
                gate.begun.add();
                let now = gate.running.add();
                while gate.peak.get() < now {
                    gate.peak.add();
                }
                let _ = gate.open.subscribe().wait_for(|open| *open).await;
                gate.running.sub();
                Ok::<_, Failure>(number)
            }
        })
    }
}

fn order(builder: &mut EngineBuilder) -> (Workflow<u32, ()>, std::sync::Arc<std::sync::Mutex<Vec<u32>>>) {
    let order = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let kept = std::sync::Arc::clone(&order);
    let workflow = builder.register("ordered", move |_: Ctx, number: u32| {
        kept.lock().unwrap().push(number);
        async { Ok::<_, Failure>(()) }
    });
    (workflow, order)
}

pub(crate) async fn each_is_run_once_by_many_processes(place: Place) {
    let (gate, client) = (Gate::new(), place.client().await);
    client.set_queue(&Queue::new("q")).await.unwrap();
    let mut engines = Vec::new();
    for _ in 0..3 {
        let mut builder = place.engine().await;
        gate.register(&mut builder);
        engines.push(builder.launch().await.unwrap());
    }
    gate.open.send_replace(true);
    let workflow = Workflow::<u32, u32>::named("gated");
    let mut handles = Vec::new();
    for number in 0..30 {
        handles.push(client.start(workflow, &number, Start::new().queue("q")).await.unwrap());
    }
    for (handle, number) in handles.iter().zip(0..) {
        assert_eq!(within(handle.result()).await.unwrap(), number);
    }
    assert_eq!(gate.begun.get(), 30);
}

pub(crate) async fn limits_are_never_exceeded(place: Place) {
    let (gate, client) = (Gate::new(), place.client().await);
    client
        .set_queue(&Queue::new("q").concurrency(3).worker_concurrency(2).poll_interval(Duration::from_millis(50)))
        .await
        .unwrap();
    let mut engines = Vec::new();
    for _ in 0..2 {
        let mut builder = place.engine().await;
        gate.register(&mut builder);
        engines.push(builder.launch().await.unwrap());
    }
    let workflow = Workflow::<u32, u32>::named("gated");
    let mut handles = Vec::new();
    for number in 0..12 {
        handles.push(client.start(workflow, &number, Start::new().queue("q")).await.unwrap());
    }
    gate.begun.reaches(3).await;
    assert!(engines.iter().all(|engine| engine.running() <= 2), "no process runs more than its own limit");
    gate.open.send_replace(true);
    for handle in handles {
        within(handle.result()).await.unwrap();
    }
    assert_eq!(gate.begun.get(), 12);
    assert_eq!(gate.peak.get(), 3, "all processes together run no more than the common limit");
}

pub(crate) async fn a_rate_holds(place: Place) {
    let period = Duration::from_millis(1200);
    let mut builder =
        place.engine().await.queue(Queue::new("q").rate(4, period).poll_interval(Duration::from_millis(30)));
    let (workflow, _) = order(&mut builder);
    let engine = builder.launch().await.unwrap();
    let mut handles = Vec::new();
    for number in 0..9 {
        handles.push(engine.start(workflow, &number, Start::new().queue("q")).await.unwrap());
    }
    for handle in &handles {
        within(handle.result()).await.unwrap();
    }
    let mut starts: Vec<i64> = Vec::new();
    for handle in &handles {
        starts.push(handle.get().await.unwrap().started_at.unwrap());
    }
    starts.sort_unstable();
    // Of any five that begin one after the other, the last is a whole period behind the first.
    assert!(starts.windows(5).all(|five| five[4] - five[0] >= 1200), "{starts:?}");
}

pub(crate) async fn lower_priorities_come_first_then_the_oldest(place: Place) {
    let mut builder = place.engine().await.queue(Queue::new("q").worker_concurrency(1));
    let (workflow, order) = order(&mut builder);
    let client = place.client().await;
    let mut handles = Vec::new();
    for (number, priority) in [(0, 5), (1, 5), (2, 1), (3, 9), (4, 1), (5, -1)] {
        handles.push(client.start(workflow, &number, Start::new().queue("q").priority(priority)).await.unwrap());
    }
    let _engine = builder.launch().await.unwrap();
    for handle in handles {
        within(handle.result()).await.unwrap();
    }
    assert_eq!(*order.lock().unwrap(), [5, 2, 4, 0, 1, 3]);
}

pub(crate) async fn a_deduplication_id_is_held_until_the_end(place: Place) {
    let gate = Gate::new();
    let mut builder = place.engine().await.queue(Queue::new("q"));
    let workflow = gate.register(&mut builder);
    let fails = builder.register("fails", |_: Ctx, (): ()| async { Err::<(), _>(Failure::message("no")) });
    let engine = builder.launch().await.unwrap();
    let start = || Start::new().queue("q").deduplication("d");
    let racers = futures::future::join_all((0..8).map(|_| engine.start(workflow, &0, start()))).await;
    let (admitted, refused): (Vec<_>, Vec<_>) = racers.into_iter().partition(Result::is_ok);
    assert_eq!((admitted.len(), refused.len()), (1, 7));
    let holder = admitted.into_iter().next().unwrap().unwrap();
    for error in refused {
        assert!(matches!(error, Err(Error::Duplicate { holder: id, .. }) if id == holder.id()));
    }
    let existing = engine.start(workflow, &0, start().on_duplicate(OnDuplicate::ReturnExisting)).await.unwrap();
    assert_eq!(existing.id(), holder.id());
    gate.open.send_replace(true);
    within(holder.result()).await.unwrap();
    // Each kind of end frees it.
    let failed = engine.start(fails, &(), start()).await.unwrap();
    within(failed.result()).await.unwrap_err();
    let cancelled = engine.start(workflow, &0, start().delay(LONG)).await.unwrap();
    engine.cancel([cancelled.id()]).await.unwrap();
    within(engine.start(workflow, &9, start()).await.unwrap().result()).await.unwrap();
}

pub(crate) async fn a_delay_is_kept_and_can_be_changed(place: Place) {
    let mut builder = place.engine().await.queue(Queue::new("q"));
    let (workflow, order) = order(&mut builder);
    let engine = builder.launch().await.unwrap();
    let start = |delay| Start::new().queue("q").delay(delay);
    let soon = engine.start(workflow, &1, start(Duration::from_millis(300))).await.unwrap();
    let later = engine.start(workflow, &2, start(LONG)).await.unwrap();
    assert_eq!(later.status().await.unwrap(), Status::Delayed);
    within(soon.result()).await.unwrap();
    let run = soon.get().await.unwrap();
    assert!(run.started_at.unwrap() >= run.created_at + 300);
    assert_eq!(*order.lock().unwrap(), [1]);
    assert!(engine.set_delay(later.id(), Duration::ZERO).await.unwrap());
    within(later.result()).await.unwrap();
    assert!(!engine.set_delay(later.id(), Duration::ZERO).await.unwrap(), "it does not wait any more");
}

pub(crate) async fn options_without_their_queue_are_refused(place: Place) {
    let mut builder = place.engine().await;
    let (workflow, _) = order(&mut builder);
    let engine = builder.launch().await.unwrap();
    let starts = [
        Start::new().delay(LONG),
        Start::new().priority(1),
        Start::new().deduplication("d"),
        Start::new().partition("p"),
        Start::new().queue("q").deduplication("d").partition("p"),
        Start::new().id(""),
        Start::new().id("with\0nul"),
        Start::new().queue("x".repeat(1001)),
    ];
    for start in starts {
        let error = engine.start(workflow, &1, start).await.unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
    }
    assert!(engine.list(&Filter::default()).await.unwrap().is_empty(), "nothing was stored");
    for queue in [
        Queue::new(""),
        Queue::new("q").concurrency(0),
        Queue::new("q").concurrency(1).worker_concurrency(2),
        Queue::new("q").partition_concurrency(1),
        Queue::new("_dbos_internal_queue"),
        Queue::new("q").rate(1, Duration::ZERO),
    ] {
        assert!(matches!(engine.set_queue(&queue).await, Err(Error::Invalid { .. })), "{queue:?}");
    }
}

pub(crate) async fn parts_have_limits_of_their_own(place: Place) {
    let gate = Gate::new();
    let queue = Queue::new("q").partitioned().partition_concurrency(1).poll_interval(Duration::from_millis(50));
    let mut builder = place.engine().await.queue(queue);
    let workflow = gate.register(&mut builder);
    let engine = builder.launch().await.unwrap();
    let mut handles = Vec::new();
    for number in 0..6 {
        let part = if number % 2 == 0 { "even" } else { "odd" };
        handles.push(engine.start(workflow, &number, Start::new().queue("q").partition(part)).await.unwrap());
    }
    gate.begun.reaches(2).await;
    assert_eq!(gate.running.get(), 2, "one of each part");
    gate.open.send_replace(true);
    for handle in handles {
        within(handle.result()).await.unwrap();
    }
    assert_eq!(gate.peak.get(), 2);
    let error = engine.start(workflow, &1, Start::new().queue("q")).await.unwrap_err();
    assert!(error.to_string().contains("is partitioned"), "{error}");
    engine.set_queue(&Queue::new("plain")).await.unwrap();
    let error = engine.start(workflow, &1, Start::new().queue("plain").partition("p")).await.unwrap_err();
    assert!(error.to_string().contains("not partitioned"), "{error}");
}

pub(crate) async fn versions_have_their_own_work(place: Place) {
    let client = place.client().await;
    client.set_queue(&Queue::new("q")).await.unwrap();
    let mut engines = Vec::new();
    for version in ["v1", "v2"] {
        let mut builder = place.engine().await.version(version);
        builder.register("version", move |_: Ctx, (): ()| async move { Ok::<_, Failure>(version.to_owned()) });
        engines.push(builder.launch().await.unwrap());
    }
    let workflow = Workflow::<(), String>::named("version");
    let run = async |start: Start| {
        within(client.start(workflow, &(), start.queue("q")).await.unwrap().result()).await.unwrap()
    };
    assert_eq!(run(Start::new().version("v1")).await, "v1");
    assert_eq!(run(Start::new().version("v2")).await, "v2");
    for _ in 0..4 {
        assert_eq!(run(Start::new()).await, "v2", "what is for no version is the latest one's");
    }
    client.set_latest_version("v1").await.unwrap();
    for _ in 0..4 {
        assert_eq!(run(Start::new()).await, "v1");
    }
}

pub(crate) async fn queues_that_nobody_listens_to_wait(place: Place) {
    let mut builder = place.engine().await.queue(Queue::new("heard")).queue(Queue::new("unheard")).listen(["heard"]);
    let (workflow, order) = order(&mut builder);
    let engine = builder.launch().await.unwrap();
    let unheard = engine.start(workflow, &1, Start::new().queue("unheard")).await.unwrap();
    within(engine.start(workflow, &2, Start::new().queue("heard")).await.unwrap().result()).await.unwrap();
    // The engine's own queue is always heard.
    let client = place.client().await;
    within(client.start(workflow, &3, Start::new()).await.unwrap().result()).await.unwrap();
    assert_eq!(*order.lock().unwrap(), [2, 3]);
    assert_eq!(unheard.status().await.unwrap(), Status::Enqueued);
}

pub(crate) async fn other_processes_get_what_this_one_cannot_run(place: Place) {
    let client = place.client().await;
    client.set_queue(&Queue::new("q")).await.unwrap();
    let mut knows_nothing = place.engine().await;
    knows_nothing.register("something else", |_: Ctx, (): ()| async { Ok::<_, Failure>(()) });
    let _ignorant = knows_nothing.launch().await.unwrap();
    let workflow = Workflow::<u32, ()>::named("ordered");
    let handle = client.start(workflow, &1, Start::new().queue("q")).await.unwrap();
    assert_eq!(handle.status().await.unwrap(), Status::Enqueued);
    let mut builder = place.engine().await;
    order(&mut builder);
    let _engine = builder.launch().await.unwrap();
    within(handle.result()).await.unwrap();
    assert_eq!(handle.get().await.unwrap().attempts, 1);
}

pub(crate) async fn settings_may_change_while_it_runs(place: Place) {
    let gate = Gate::new();
    let mut builder = place.engine().await.queue(Queue::new("q").worker_concurrency(1));
    let workflow = gate.register(&mut builder);
    let engine = builder.launch().await.unwrap();
    let mut handles = Vec::new();
    for number in 0..4 {
        handles.push(engine.start(workflow, &number, Start::new().queue("q")).await.unwrap());
    }
    gate.begun.reaches(1).await;
    assert_eq!(gate.running.get(), 1);
    place.client().await.set_queue(&Queue::new("q").worker_concurrency(4)).await.unwrap();
    gate.begun.reaches(4).await;
    gate.open.send_replace(true);
    for handle in handles {
        within(handle.result()).await.unwrap();
    }
}

pub(crate) async fn applications_do_not_take_each_others_work(place: Place) {
    let client = place.client().await;
    client.set_queue(&Queue::new("q")).await.unwrap();
    let mut engines = Vec::new();
    for (application, version) in [("shop", "v1"), ("bank", "v2")] {
        let mut builder = place.engine().await.application(application).version(version);
        builder.register("whose", move |_: Ctx, (): ()| async move { Ok::<_, Failure>(application.to_owned()) });
        engines.push(builder.launch().await.unwrap());
    }
    let workflow = Workflow::<(), String>::named("whose");
    for application in ["shop", "bank", "shop"] {
        let client = place.client().await.application(application);
        let handle = client.start(workflow, &(), Start::new().queue("q")).await.unwrap();
        assert_eq!(within(handle.result()).await.unwrap(), application);
    }
    let anybodys = client.start(workflow, &(), Start::new().queue("q")).await.unwrap();
    assert!(["shop", "bank"].contains(&within(anybodys.result()).await.unwrap().as_str()));
}

pub(crate) async fn queued_work_begins_at_once(place: Place) {
    // Nobody looks by itself for an hour: what begins was told of.
    let queue = Queue::new("q").poll_interval(Duration::from_secs(3600));
    let mut builder = place.engine().await.queue(queue).poll_interval(Duration::from_secs(3600));
    let (workflow, _) = order(&mut builder);
    let _engine = builder.launch().await.unwrap();
    let client = place.client().await;
    for number in 0..3 {
        let handle = client.start(workflow, &number, Start::new().queue("q")).await.unwrap();
        within(handle.result()).await.unwrap();
    }
}

pub(crate) async fn what_is_debounced_runs_once_with_the_latest_input(place: Place) {
    let mut builder = place.engine().await.queue(Queue::new("q"));
    let (workflow, order) = order(&mut builder);
    let client = place.client().await;
    let push = async |key: &str, number: u32, at_most: Option<Duration>| {
        client
            .debounce(workflow, key, Duration::from_millis(400), at_most, &number, Start::new().queue("q"))
            .await
            .unwrap()
    };
    let first = push("a", 1, None).await;
    let other = push("b", 10, None).await;
    for number in 2..5 {
        assert_eq!(push("a", number, None).await.id(), first.id());
    }
    let capped = push("c", 20, Some(Duration::from_millis(10))).await;
    let engine = builder.launch().await.unwrap();
    for handle in [&first, &other, &capped] {
        within(handle.result()).await.unwrap();
    }
    let mut ran = order.lock().unwrap().clone();
    ran.sort_unstable();
    assert_eq!(ran, [4, 10, 20]);
    let run = capped.get().await.unwrap();
    assert!(run.delay_until.unwrap() <= run.created_at + 10);
    assert_ne!(push("a", 5, None).await.id(), first.id(), "after it has begun, another one is started");
    drop(engine);
}
