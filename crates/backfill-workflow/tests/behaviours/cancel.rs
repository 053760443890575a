//! Cancelling and resuming.

use std::time::Duration;

use backfill_workflow::{Ctx, EngineBuilder, Error, Failure, Queue, Start, Status, Workflow};

use crate::place::{Counter, Place, within};

fn sleeps(builder: &mut EngineBuilder, begun: &Counter) -> Workflow<(), ()> {
    let begun = begun.clone();
    builder.register("sleeps", move |ctx: Ctx, (): ()| {
        begun.add();
        async move { ctx.sleep(Duration::from_secs(3600)).await.map_err(Failure::from) }
    })
}

fn is_cancelled(failure: &Failure) -> bool {
    matches!(failure.engine(), Some(Error::Cancelled { .. }))
}

pub(crate) async fn a_sleeper_hears_it_at_once(place: Place) {
    let begun = Counter::new();
    let mut builder = place.engine().await;
    let workflow = sleeps(&mut builder, &begun);
    let engine = builder.launch().await.unwrap();
    let handle = engine.start(workflow, &(), Start::new()).await.unwrap();
    begun.reaches(1).await;
    assert_eq!(engine.cancel([handle.id()]).await.unwrap(), [handle.id()]);
    assert!(is_cancelled(&within(handle.result()).await.unwrap_err()));
    within(async {
        while engine.running() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

pub(crate) async fn a_step_hears_it_at_once_and_is_not_recorded(place: Place) {
    struct Dropped(Counter);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.add();
        }
    }
    let (begun, dropped) = (Counter::new(), Counter::new());
    let mut builder = place.engine().await;
    let (one, two) = (begun.clone(), dropped.clone());
    let workflow = builder.register("steps", move |ctx: Ctx, (): ()| {
        let (one, two) = (one.clone(), two.clone());
        async move {
            ctx.step("endless", || async {
                let _dropped = Dropped(two.clone());
                one.add();
                std::future::pending::<Result<(), Failure>>().await
            })
            .await
        }
    });
    let engine = builder.launch().await.unwrap();
    let handle = engine.start(workflow, &(), Start::new()).await.unwrap();
    begun.reaches(1).await;
    engine.cancel([handle.id()]).await.unwrap();
    dropped.reaches(1).await;
    assert!(is_cancelled(&within(handle.result()).await.unwrap_err()));
    assert!(engine.steps(handle.id()).await.unwrap().is_empty());
}

pub(crate) async fn a_swallowed_cancellation_is_no_success(place: Place) {
    let (begun, ended) = (Counter::new(), Counter::new());
    let mut builder = place.engine().await;
    let (one, two) = (begun.clone(), ended.clone());
    let workflow = builder.register("stubborn", move |ctx: Ctx, (): ()| {
        let (one, two) = (one.clone(), two.clone());
        async move {
            one.add();
            let _ = ctx.sleep(Duration::from_secs(3600)).await;
            let refused = ctx.step("more", || async { Ok(()) }).await;
            assert!(refused.is_err(), "nothing more is recorded");
            two.add();
            Ok::<_, Failure>("all is well".to_owned())
        }
    });
    let engine = builder.launch().await.unwrap();
    let handle = engine.start(workflow, &(), Start::new()).await.unwrap();
    begun.reaches(1).await;
    engine.cancel([handle.id()]).await.unwrap();
    ended.reaches(1).await;
    assert!(is_cancelled(&within(handle.result()).await.unwrap_err()));
    engine.shutdown(Duration::from_secs(10)).await;
    let run = place.client().await.get(handle.id()).await.unwrap();
    assert_eq!((run.status, run.output), (Status::Cancelled, None));
}

pub(crate) async fn another_process_hears_it(place: Place) {
    let begun = Counter::new();
    let mut builder = place.engine().await;
    let workflow = sleeps(&mut builder, &begun);
    let engine = builder.launch().await.unwrap();
    let handle = engine.start(workflow, &(), Start::new()).await.unwrap();
    begun.reaches(1).await;
    let elsewhere = place.client().await;
    elsewhere.cancel([handle.id()]).await.unwrap();
    assert!(is_cancelled(&within(elsewhere.handle(workflow, handle.id()).result()).await.unwrap_err()));
    within(async {
        while engine.running() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

pub(crate) async fn descendants_are_cancelled_too(place: Place) {
    let begun = Counter::new();
    let mut builder = place.engine().await;
    let leaf = sleeps(&mut builder, &begun);
    let middle = builder.register("middle", move |ctx: Ctx, (): ()| async move {
        ctx.child(leaf, &(), Start::new()).await?.result().await
    });
    let root = builder.register("root", move |ctx: Ctx, (): ()| async move {
        ctx.child(middle, &(), Start::new()).await?.result().await
    });
    let engine = builder.launch().await.unwrap();
    engine.start(root, &(), Start::new().id("r")).await.unwrap();
    begun.reaches(1).await;
    let mut gone = engine.cancel_with_children(["r"]).await.unwrap();
    gone.sort();
    assert_eq!(gone, ["r", "r-0", "r-0-0"]);
    for id in gone {
        assert_eq!(engine.get(&id).await.unwrap().status, Status::Cancelled);
    }
}

pub(crate) async fn bulk_cancel_passes_over_what_has_ended(place: Place) {
    let begun = Counter::new();
    let mut builder = place.engine().await;
    let endless = sleeps(&mut builder, &begun);
    let quick = builder.register("quick", |_: Ctx, (): ()| async { Ok::<_, Failure>(1) });
    let engine = builder.launch().await.unwrap();
    let done = engine.start(quick, &(), Start::new().id("done")).await.unwrap();
    within(done.result()).await.unwrap();
    engine.start(endless, &(), Start::new().id("old")).await.unwrap();
    begun.reaches(1).await;
    assert_eq!(engine.cancel(["done", "nobody", "old"]).await.unwrap(), ["old"]);
    assert_eq!(done.status().await.unwrap(), Status::Success);

    let early = engine.store().now().await.unwrap() - 1000;
    engine.start(endless, &(), Start::new().id("young")).await.unwrap();
    assert!(engine.cancel_all_before(early).await.unwrap().is_empty());
    let late = engine.store().now().await.unwrap() + 1000;
    assert_eq!(engine.cancel_all_before(late).await.unwrap(), ["young"]);
}

pub(crate) async fn a_cancelled_workflow_goes_on_when_resumed(place: Place) {
    let (first, rest) = (Counter::new(), Counter::new());
    let mut builder = place.engine().await.queue(Queue::new("special"));
    let (one, two) = (first.clone(), rest.clone());
    let workflow = builder.register("two steps", move |ctx: Ctx, (): ()| {
        let (one, two) = (one.clone(), two.clone());
        async move {
            ctx.step("first", || async { Ok(one.add()) }).await?;
            if two.add() == 1 {
                ctx.sleep(Duration::from_secs(3600)).await?;
            }
            Ok::<_, Failure>(two.get())
        }
    });
    let engine = builder.launch().await.unwrap();
    engine.start(workflow, &(), Start::new().id("w")).await.unwrap();
    rest.reaches(1).await;
    engine.cancel(["w"]).await.unwrap();
    let cancelled = engine.get("w").await.unwrap();
    assert!(cancelled.completed_at.is_some());
    assert_eq!(engine.resume(["w"], Some("special")).await.unwrap(), ["w"]);
    assert_eq!(within(engine.handle(workflow, "w").result()).await.unwrap(), 2);
    let run = engine.get("w").await.unwrap();
    assert_eq!((run.status, run.queue.as_deref(), run.attempts), (Status::Success, Some("special"), 1));
    assert_eq!(first.get(), 1, "what was recorded is not done again");
    assert!(engine.resume(["w"], None).await.unwrap().is_empty(), "what has answered stays as it is");
}

pub(crate) async fn a_running_workflow_that_is_resumed_is_lost_to_its_execution(place: Place) {
    let begun = Counter::new();
    let mut builder = place.engine().await;
    let count = begun.clone();
    let workflow = builder.register("resumed", move |ctx: Ctx, (): ()| {
        let count = count.clone();
        async move {
            if count.add() == 1 {
                ctx.sleep(Duration::from_secs(3600)).await?;
            }
            Ok::<_, Failure>(count.get())
        }
    });
    let engine = builder.launch().await.unwrap();
    let handle = engine.start(workflow, &(), Start::new()).await.unwrap();
    begun.reaches(1).await;
    let elsewhere = place.client().await;
    assert_eq!(elsewhere.resume([handle.id()], None).await.unwrap(), [handle.id()]);
    assert_eq!(within(handle.result()).await.unwrap(), 2);
    assert_eq!(begun.get(), 2);
}
