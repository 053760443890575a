//! What goes wrong in a process, and harms no workflow: callers that are dropped, executions that are lost, answers that do not come.

use std::time::Duration;

use backfill_workflow::store::{
    Checkpoint, Checkpointed, Claim, Execution, Finish, INTERNAL_QUEUE, NewRun, StepRow, Transition,
};
use backfill_workflow::{Ctx, Error, Failure, Filter, Queue, Schedule, Start, Status, Tick, Workflow};

use crate::place::{Counter, Place, within};

pub(crate) async fn a_start_whose_caller_is_dropped_is_begun_all_the_same(place: Place) {
    let ended = Counter::new();
    let mut builder = place.engine().await;
    let count = ended.clone();
    let quick = builder.register("quick", move |_: Ctx, (): ()| {
        count.add();
        async { Ok::<_, Failure>(()) }
    });
    let engine = builder.launch().await.unwrap();
    for number in 0..20_u64 {
        let start = engine.start(quick, &(), Start::new().id(format!("w{number}")));
        let _ = tokio::time::timeout(Duration::from_micros(50 * number), start).await;
    }
    within(async {
        loop {
            let runs = engine.list(&Filter::default()).await.unwrap();
            if runs.iter().all(|run| run.status == Status::Success) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}

pub(crate) async fn what_a_process_should_run_and_does_not_is_put_back(place: Place) {
    let mut builder = place.engine().await.executor("forgetful");
    let quick = builder.register("quick", |_: Ctx, (): ()| async { Ok::<_, Failure>(7) });
    let engine = builder.launch().await.unwrap();
    // As a claim whose answer was lost leaves it.
    let run = NewRun {
        id: "lost".into(),
        name: "quick".into(),
        input: r#"{"positionalArgs":[]}"#.into(),
        creator: "c".into(),
        version: Some("v1".into()),
        start: Some(Execution { executor: "forgetful".into(), owner: "nobody knows".into() }),
        ..NewRun::default()
    };
    engine.store().create(&[run]).await.unwrap();
    assert_eq!(within(engine.handle(quick, "lost").result()).await.unwrap(), 7);
}

pub(crate) async fn many_that_are_resumed_again_and_again_all_run(place: Place) {
    let mut builder = place.engine().await;
    let sleeps = builder.register("sleeps", |ctx: Ctx, (): ()| async move {
        ctx.recv::<()>("go", Duration::from_secs(3600)).await.map(drop)
    });
    let engine = builder.launch().await.unwrap();
    let ids: Vec<String> = (0..40).map(|number| format!("w{number}")).collect();
    for id in &ids {
        engine.start(sleeps, &(), Start::new().id(id)).await.unwrap();
    }
    for _ in 0..4 {
        for id in &ids {
            engine.resume([id], None).await.unwrap();
        }
    }
    for id in &ids {
        engine.send(id, "go", &(), None).await.unwrap();
    }
    for id in &ids {
        within(engine.handle(sleeps, id).result()).await.unwrap();
    }
}

pub(crate) async fn an_execution_that_lost_its_workflow_is_told_so_whatever_it_writes(place: Place) {
    let store = place.store().await;
    let run = NewRun {
        id: "z".into(),
        name: "n".into(),
        input: "{}".into(),
        creator: "c".into(),
        version: Some("v".into()),
        start: Some(Execution { executor: "old".into(), owner: "old token".into() }),
        ..NewRun::default()
    };
    store.create(&[run]).await.unwrap();
    store.transition(&Transition::Recover { executors: vec!["old".into()], version: None }).await.unwrap();
    let names = ["n".to_owned()];
    let claim = Claim {
        queue: INTERNAL_QUEUE,
        partition: None,
        limit: 1,
        names: &names,
        executor: "new",
        version: "v",
        application: None,
        concurrency: None,
        partition_concurrency: None,
        rate: None,
        partition_rate: None,
    };
    let new = store.claim(&claim).await.unwrap().remove(0).run.owner.unwrap();
    let step = |owner: &str, number: i32| Checkpoint {
        run: "z".into(),
        owner: owner.into(),
        step: StepRow { number, name: "s".into(), output: Some("null".into()), ..StepRow::default() },
        effect: None,
    };
    assert_eq!(store.checkpoint(&[step(&new, 0)]).await.unwrap(), [Checkpointed::Written]);
    // The same step with the same result: still not the old one's to write.
    assert!(matches!(store.checkpoint(&[step("old token", 0)]).await.unwrap()[0], Checkpointed::Refused(Some(_))));
    assert!(matches!(store.checkpoint(&[step(&new, 0)]).await.unwrap()[0], Checkpointed::Recorded(_)));
    // Both in one write.
    let both = store.checkpoint(&[step("old token", 1), step(&new, 1)]).await.unwrap();
    assert!(
        matches!(&both[..], [Checkpointed::Refused(Some(_)) | Checkpointed::Recorded(_), Checkpointed::Written]),
        "{both:?}"
    );
    assert!(!matches!(both[0], Checkpointed::Written));
    let end = |owner: &str| Finish {
        run: "z".into(),
        owner: owner.into(),
        status: Status::Success,
        output: Some(format!("{owner:?}")),
        error: None,
    };
    assert_eq!(store.finish(&[end("old token"), end(&new)]).await.unwrap(), [false, true]);
}

pub(crate) async fn a_function_that_panics_before_its_first_step_harms_nobody_else(place: Place) {
    let mut builder = place.engine().await.queue(Queue::new("q"));
    let bad = builder.register("bad", |_: Ctx, fail: bool| {
        assert!(!fail, "before the future");
        async { Ok::<_, Failure>(()) }
    });
    let well = builder.register("well", |_: Ctx, (): ()| async { Ok::<_, Failure>(1) });
    let engine = builder.launch().await.unwrap();
    engine.start(bad, &true, Start::new().queue("q")).await.unwrap();
    engine.start(bad, &true, Start::new()).await.unwrap();
    let later = engine.start(well, &(), Start::new().queue("q")).await.unwrap();
    assert_eq!(within(later.result()).await.unwrap(), 1);
}

pub(crate) async fn a_shutdown_ends_also_while_others_start(place: Place) {
    for _ in 0..5 {
        let mut builder = place.engine().await;
        let endless = builder.register("endless", |ctx: Ctx, (): ()| async move {
            ctx.sleep(Duration::from_secs(3600)).await.map_err(Failure::from)
        });
        let engine = builder.launch().await.unwrap();
        let client = engine.client().clone();
        let starts = tokio::spawn(async move { while client.start(endless, &(), Start::new()).await.is_ok() {} });
        tokio::time::sleep(Duration::from_millis(20)).await;
        within(engine.shutdown(Duration::from_millis(5))).await;
        within(starts).await.unwrap();
    }
}

pub(crate) async fn a_new_version_of_a_named_executor_leaves_the_old_ones_work_to_others(place: Place) {
    let begun = Counter::new();
    let launch = async |executor: &str, version: &str| {
        let mut builder = place.engine().await.executor(executor).version(version);
        let count = begun.clone();
        builder.register("once", move |_: Ctx, (): ()| {
            let first = count.add() == 1;
            async move {
                if first {
                    std::future::pending::<()>().await;
                }
                Ok::<_, Failure>(1)
            }
        });
        builder.launch().await.unwrap()
    };
    let once = Workflow::<(), i32>::named("once");
    let old = launch("pod-0", "v1").await;
    old.start(once, &(), Start::new().id("w")).await.unwrap();
    begun.reaches(1).await;
    drop(old);
    let other = launch("pod-1", "v1").await;
    let _new = launch("pod-0", "v2").await;
    assert_eq!(within(other.handle(once, "w").result()).await.unwrap(), 1);
}

pub(crate) async fn writes_to_one_stream_at_once_are_all_kept(place: Place) {
    let mut builder = place.engine().await;
    let writes = builder.register("writes", |ctx: Ctx, (): ()| async move {
        for _ in 0..5 {
            let all = (0..8).map(|value: i32| ctx.write_stream("s", &value));
            futures::future::try_join_all(all.collect::<Vec<_>>()).await?;
        }
        Ok::<_, Failure>(())
    });
    let engine = builder.launch().await.unwrap();
    let handle = engine.start(writes, &(), Start::new()).await.unwrap();
    within(handle.result()).await.unwrap();
    assert_eq!(engine.stream_now::<i32>(handle.id(), "s", 0).await.unwrap().len(), 40);
}

pub(crate) async fn a_child_of_another_name_is_refused_again_on_replay(place: Place) {
    let runs = Counter::new();
    let mut builder = place.engine().await;
    let taken = builder.register("taken", |_: Ctx, (): ()| async { Ok::<_, Failure>(()) });
    let other = builder.register("other", |_: Ctx, (): ()| async { Ok::<_, Failure>(()) });
    let count = runs.clone();
    let parent = builder.register("parent", move |ctx: Ctx, (): ()| {
        let count = count.clone();
        async move {
            let refused = ctx.child(other, &(), Start::new().id("x")).await.map(|child| child.id().to_owned());
            let name = refused.err().map(|failure| failure.name().to_owned());
            assert!(count.add() > 1, "the first run panics");
            Ok::<_, Failure>(name)
        }
    });
    let engine = builder.launch().await.unwrap();
    within(engine.start(taken, &(), Start::new().id("x")).await.unwrap().result()).await.unwrap();
    let handle = engine.start(parent, &(), Start::new()).await.unwrap();
    assert_eq!(within(handle.result()).await.unwrap().as_deref(), Some("OtherWorkflow"));
}

pub(crate) async fn calls_with_one_key_at_once_are_one_debounced_workflow(place: Place) {
    let client = place.client().await;
    let workflow = Workflow::<u32, ()>::named("debounced");
    let minute = Duration::from_secs(60);
    for key in ["a", "b", "c"] {
        let calls = (0..8).map(|_| client.debounce(workflow, key, minute, None, &1, Start::new()));
        let handles = futures::future::try_join_all(calls).await.unwrap();
        assert!(handles.iter().all(|handle| handle.id() == handles[0].id()));
    }
}

pub(crate) async fn a_schedule_that_goes_on_makes_up_for_no_pause(place: Place) {
    let begun = Counter::new();
    let mut builder = place.engine().await;
    let count = begun.clone();
    let ticks = builder.register("ticks", move |_: Ctx, _: Tick| {
        count.add();
        async { Ok::<_, Failure>(()) }
    });
    let engine = builder.schedule(Schedule::new("s", ticks, "* * * * * *")).launch().await.unwrap();
    begun.reaches(1).await;
    engine.pause_schedule("s").await.unwrap();
    tokio::time::sleep(Duration::from_millis(3500)).await;
    let paused = begun.get();
    engine.resume_schedule("s").await.unwrap();
    begun.reaches(paused + 1).await;
    assert!(begun.get() <= paused + 2, "{} after {paused}", begun.get());
    let resumed = engine.list(&Filter::default()).await.unwrap();
    assert!(resumed.len() <= paused + 2);
}

pub(crate) async fn a_childs_own_time_holds_in_its_queue(place: Place) {
    let mut builder = place.engine().await.queue(Queue::new("q"));
    let child = builder.register("child", |ctx: Ctx, (): ()| async move { Ok::<_, Failure>(ctx.deadline()) });
    let parent = builder.register("parent", move |ctx: Ctx, (): ()| async move {
        let own = Start::new().queue("q").timeout(Duration::from_secs(5));
        let own = ctx.child(child, &(), own).await?.result().await?;
        let refused = ctx.child(child, &(), Start::new().queue("q").partition("p")).await.is_err();
        Ok::<_, Failure>((ctx.deadline(), own, refused))
    });
    let engine = builder.launch().await.unwrap();
    let handle = engine.start(parent, &(), Start::new().timeout(Duration::from_secs(600))).await.unwrap();
    let (parents, own, refused) = within(handle.result()).await.unwrap();
    assert!(own.unwrap() < parents.unwrap() - 500_000);
    assert!(refused, "a part of a queue that has none");
}

pub(crate) async fn a_bulk_cancel_is_heard_in_another_process(place: Place) {
    let mut builder = place.engine().await.lease(Duration::from_secs(3600));
    let sleeps = builder.register("sleeps", |ctx: Ctx, (): ()| async move {
        ctx.sleep(Duration::from_secs(3600)).await.map_err(Failure::from)
    });
    let engine = builder.launch().await.unwrap();
    // Longer than one notification.
    let ids: Vec<String> = (0..300).map(|number| format!("{number:0>100}")).collect();
    let starts = ids.iter().map(|id| engine.start(sleeps, &(), Start::new().id(id)));
    futures::future::try_join_all(starts).await.unwrap();
    let elsewhere = place.client().await;
    assert_eq!(elsewhere.cancel(ids).await.unwrap().len(), 300);
    within(async {
        while engine.running() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

pub(crate) async fn arguments_of_other_languages_are_given_as_they_are(place: Place) {
    let mut builder = place.engine().await;
    builder.register("adds", |_: Ctx, (a, b): (i32, i32)| async move { Ok::<_, Failure>(a + b) });
    let engine = builder.launch().await.unwrap();
    let adds = Workflow::<backfill_workflow::Args, i32>::named("adds");
    let input = backfill_workflow::Args::new().positional(&1).positional(&2);
    let handle = engine.start(adds, &input, Start::new()).await.unwrap();
    assert_eq!(within(handle.result()).await.unwrap(), 3);
    let stored: serde_json::Value =
        serde_json::from_str(handle.get().await.unwrap().input.as_deref().unwrap()).unwrap();
    assert_eq!(stored, serde_json::json!({ "positionalArgs": [1, 2], "namedArgs": {} }));
    let closed = engine.client().clone();
    engine.shutdown(Duration::from_secs(5)).await;
    assert!(matches!(closed.start(adds, &input, Start::new()).await, Err(Error::Closed)));
}
