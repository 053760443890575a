//! Sleeps and deadlines.

use std::time::{Duration, Instant};

use backfill_workflow::{Ctx, Error, Failure, Queue, Start, Status};

use crate::place::{Counter, Place, within};

pub(crate) async fn a_restarted_sleep_is_not_begun_anew(place: Place) {
    let begun = Counter::new();
    let mut handles = Vec::new();
    let began = Instant::now();
    for process in 0..2 {
        let mut builder = place.engine().await.executor("sleeper");
        let count = begun.clone();
        let workflow = builder.register("sleeps", move |ctx: Ctx, (): ()| {
            count.add();
            async move { ctx.sleep(Duration::from_millis(1500)).await.map_err(Failure::from) }
        });
        let engine = builder.launch().await.unwrap();
        if process == 0 {
            engine.start(workflow, &(), Start::new().id("s")).await.unwrap();
            begun.reaches(1).await;
            while engine.steps("s").await.unwrap().is_empty() {
                tokio::task::yield_now().await;
            }
            // The process dies in the middle of the sleep.
            tokio::time::sleep(Duration::from_millis(700)).await;
            drop(engine);
        } else {
            within(engine.handle(workflow, "s").result()).await.unwrap();
            handles.push(engine);
        }
    }
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(1500), "it sleeps to the end: {took:?}");
    assert_eq!(begun.get(), 2);
    let steps = handles[0].steps("s").await.unwrap();
    assert_eq!(steps.len(), 1, "one sleep is recorded");
    // Had it begun anew, its end would be that much later than the first.
    let until: f64 = steps[0].output.as_deref().unwrap().parse().unwrap();
    #[expect(clippy::cast_precision_loss, reason = "a date")]
    let started = steps[0].started_at.unwrap() as f64 / 1000.0;
    assert!((until - started - 1.5).abs() < 0.5, "{until} {started}");
}

pub(crate) async fn the_time_of_queued_work_begins_when_it_does(place: Place) {
    let mut builder = place.engine().await.queue(Queue::new("q"));
    let workflow = builder.register("quick", |ctx: Ctx, (): ()| async move { Ok::<_, Failure>(ctx.deadline()) });
    let client = place.client().await;
    let start = Start::new().queue("q").timeout(Duration::from_secs(60));
    let handle = client.start(workflow, &(), start).await.unwrap();
    assert_eq!(handle.get().await.unwrap().deadline, None);
    let _engine = builder.launch().await.unwrap();
    assert!(within(handle.result()).await.unwrap().is_some());
    let run = handle.get().await.unwrap();
    assert_eq!(run.deadline, Some(run.started_at.unwrap() + 60_000));
}

pub(crate) async fn what_is_beyond_its_time_is_cancelled(place: Place) {
    let mut builder = place.engine().await;
    let sleeps = builder.register("sleeps", |ctx: Ctx, (): ()| async move {
        ctx.sleep(Duration::from_secs(3600)).await.map_err(Failure::from)
    });
    let receives = builder.register("receives", |ctx: Ctx, (): ()| async move {
        ctx.recv::<()>("topic", Duration::from_secs(3600)).await.map(drop)
    });
    let steps = builder.register("steps", |ctx: Ctx, (): ()| async move {
        ctx.step("endless", std::future::pending::<Result<(), Failure>>).await
    });
    let engine = builder.launch().await.unwrap();
    for workflow in [sleeps, receives, steps] {
        let handle = engine.start(workflow, &(), Start::new().timeout(Duration::from_millis(100))).await.unwrap();
        let failure = within(handle.result()).await.unwrap_err();
        assert!(matches!(failure.engine(), Some(Error::Cancelled { .. })), "{failure}");
        assert_eq!(handle.status().await.unwrap(), Status::Cancelled);
    }
}

pub(crate) async fn a_deadline_holds_when_its_process_is_dead(place: Place) {
    let mut builder = place.engine().await.lease(Duration::from_secs(3600));
    let workflow = builder.register("sleeps", |ctx: Ctx, (): ()| async move {
        ctx.sleep(Duration::from_secs(3600)).await.map_err(Failure::from)
    });
    let engine = builder.launch().await.unwrap();
    let handle = engine.start(workflow, &(), Start::new().timeout(Duration::from_millis(300))).await.unwrap();
    let id = handle.id().to_owned();
    drop(engine);
    // Another process, which does not even know the workflow.
    let other = place.engine().await.launch().await.unwrap();
    let failure = within(other.handle(workflow, &id).result()).await.unwrap_err();
    assert!(matches!(failure.engine(), Some(Error::Cancelled { .. })), "{failure}");
}

pub(crate) async fn a_child_has_its_parents_deadline(place: Place) {
    let mut builder = place.engine().await;
    let child = builder.register("child", |ctx: Ctx, (): ()| async move { Ok::<_, Failure>(ctx.deadline()) });
    let parent = builder.register("parent", move |ctx: Ctx, (): ()| async move {
        let kept = ctx.child(child, &(), Start::new()).await?.result().await?;
        let detached = ctx.child(child, &(), Start::new().detached()).await?.result().await?;
        Ok::<_, Failure>((ctx.deadline(), kept, detached))
    });
    let engine = builder.launch().await.unwrap();
    let handle = engine.start(parent, &(), Start::new().timeout(Duration::from_secs(60))).await.unwrap();
    let (own, kept, detached) = within(handle.result()).await.unwrap();
    assert!(own.is_some());
    assert_eq!(kept, own);
    assert_eq!(detached, None);
}
