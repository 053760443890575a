//! What happens when processes die.

use std::sync::Arc;
use std::time::Duration;

use backfill_workflow::store::Store;
use backfill_workflow::testing::Crash;
use backfill_workflow::{Ctx, Engine, EngineBuilder, Error, Failure, Filter, Queue, Start, Status, Workflow};

use crate::place::{Counter, Place, within};

const LONG: Duration = Duration::from_secs(3600);

/// A workflow that records a step and then waits for as long as it is the first execution.
fn resumable(builder: &mut EngineBuilder, steps: &Counter, runs: &Counter) -> Workflow<(), usize> {
    let (steps, runs) = (steps.clone(), runs.clone());
    builder.register("resumable", move |ctx: Ctx, (): ()| {
        let (steps, runs) = (steps.clone(), runs.clone());
        async move {
            let step = ctx.step("once", || async { Ok(steps.add()) }).await?;
            if runs.add() == 1 {
                ctx.cancelled().await;
                std::future::pending::<()>().await;
            }
            Ok::<_, Failure>(step)
        }
    })
}

pub(crate) async fn a_dead_process_is_taken_over(place: Place) {
    let (steps, runs) = (Counter::new(), Counter::new());
    let mut builder = place.engine().await;
    let workflow = resumable(&mut builder, &steps, &runs);
    let dies = builder.launch().await.unwrap();
    let mut builder = place.engine().await;
    resumable(&mut builder, &steps, &runs);
    let lives = builder.launch().await.unwrap();
    dies.start(workflow, &(), Start::new().id("w")).await.unwrap();
    runs.reaches(1).await;
    drop(dies);
    assert_eq!(within(lives.handle(workflow, "w").result()).await.unwrap(), 1);
    assert_eq!((steps.get(), runs.get()), (1, 2));
    let run = lives.get("w").await.unwrap();
    assert_eq!((run.attempts, run.executor.as_deref()), (2, Some(lives.executor())));
}

pub(crate) async fn a_stalled_process_cannot_write(place: Place) {
    let (calls, effects) = (Counter::new(), Counter::new());
    let gate = Arc::new(tokio::sync::Notify::new());
    let register = |builder: &mut EngineBuilder| {
        let (calls, effects, gate) = (calls.clone(), effects.clone(), Arc::clone(&gate));
        builder.register("stalls", move |ctx: Ctx, (): ()| {
            let (calls, effects, gate) = (calls.clone(), effects.clone(), Arc::clone(&gate));
            async move {
                let call = calls.add();
                if call == 1 {
                    // Nothing of the engine's wakes it meanwhile.
                    gate.notified().await;
                }
                let value = ctx.step("late", || async { Ok(call) }).await?;
                effects.add();
                Ok::<_, Failure>(value)
            }
        })
    };
    // Its heart does not beat often enough for its own lease, as in a process that stands still.
    let crash = Crash::never(place.store().await);
    let mut builder =
        Engine::builder().store(Arc::new(crash.clone())).migrate(false).version("v1").lease(Duration::from_millis(900));
    let workflow = register(&mut builder);
    let stalls = builder.launch().await.unwrap();
    let mut builder = place.engine().await;
    register(&mut builder);
    let lives = builder.launch().await.unwrap();
    let handle = stalls.start(workflow, &(), Start::new().id("w")).await.unwrap();
    calls.reaches(1).await;
    crash.stall();
    assert_eq!(within(lives.handle(workflow, "w").result()).await.unwrap(), 2, "the living process has taken it over");
    crash.go_on();
    gate.notify_one();
    assert_eq!(within(handle.result()).await.unwrap(), 2, "the stalled one answers what the other has found");
    assert_eq!(effects.get(), 1, "nothing behind the refused step has run");
    assert_eq!(lives.steps("w").await.unwrap()[0].output.as_deref(), Some("2"));
}

pub(crate) async fn what_is_begun_too_often_is_set_aside(place: Place) {
    for queue in [None, Some("q")] {
        let (id, runs) = (format!("w-{queue:?}"), Counter::new());
        let well = Counter::new();
        let register = |builder: &mut EngineBuilder| {
            let (runs, well) = (runs.clone(), well.clone());
            builder.register("poison", move |_: Ctx, (): ()| {
                runs.add();
                let well = well.get() > 0;
                async move {
                    if !well {
                        std::future::pending::<()>().await;
                    }
                    Ok::<_, Failure>(7)
                }
            })
        };
        let workflow = Workflow::<(), i32>::named("poison");
        for attempt in 1..=3 {
            let mut builder = place.engine().await.max_attempts(2).executor("crashes").queue(Queue::new("q"));
            register(&mut builder);
            let engine = builder.launch().await.unwrap();
            if attempt == 1 {
                let mut start = Start::new().id(&id);
                start.queue = queue.map(str::to_owned);
                engine.start(workflow, &(), start).await.unwrap();
            }
            runs.reaches(attempt).await;
            drop(engine);
        }
        let mut builder = place.engine().await.max_attempts(2).executor("crashes");
        register(&mut builder);
        let engine = builder.launch().await.unwrap();
        let failure = within(engine.handle(workflow, &id).result()).await.unwrap_err();
        assert!(matches!(failure.engine(), Some(Error::Exhausted { .. })), "{failure}");
        assert_eq!(runs.get(), 3);
        let run = engine.get(&id).await.unwrap();
        assert_eq!((run.status, run.queue.as_deref()), (Status::Exhausted, None));
        assert!(matches!(engine.start(workflow, &(), Start::new().id(&id)).await, Err(Error::Exhausted { .. })));
        well.add();
        engine.resume([&id], None).await.unwrap();
        assert_eq!(within(engine.handle(workflow, &id).result()).await.unwrap(), 7);
        assert_eq!(engine.get(&id).await.unwrap().attempts, 1);
    }
}

pub(crate) async fn a_panic_in_the_body_begins_it_again(place: Place) {
    let (steps, runs) = (Counter::new(), Counter::new());
    let mut builder = place.engine().await;
    let (one, two) = (steps.clone(), runs.clone());
    let workflow = builder.register("panics", move |ctx: Ctx, (): ()| {
        let (one, two) = (one.clone(), two.clone());
        async move {
            ctx.step("once", || async { Ok(one.add()) }).await?;
            assert!(two.add() > 1, "the first run panics");
            Ok::<_, Failure>("well".to_owned())
        }
    });
    let engine = builder.launch().await.unwrap();
    let handle = engine.start(workflow, &(), Start::new()).await.unwrap();
    assert_eq!(within(handle.result()).await.unwrap(), "well");
    assert_eq!((steps.get(), runs.get()), (1, 2));
}

pub(crate) async fn a_shutdown_leaves_what_is_not_done(place: Place) {
    let (steps, runs) = (Counter::new(), Counter::new());
    let mut builder = place.engine().await.lease(LONG);
    let workflow = resumable(&mut builder, &steps, &runs);
    let engine = builder.launch().await.unwrap();
    engine.start(workflow, &(), Start::new().id("w")).await.unwrap();
    runs.reaches(1).await;
    within(engine.shutdown(Duration::from_millis(10))).await;
    let client = place.client().await;
    assert_eq!(client.get("w").await.unwrap().status, Status::Pending);
    // Its lease would have been an hour; it has said that it ended.
    let mut builder = place.engine().await;
    resumable(&mut builder, &steps, &runs);
    let _engine = builder.launch().await.unwrap();
    assert_eq!(within(client.handle(workflow, "w").result()).await.unwrap(), 1);
}

pub(crate) async fn a_named_executor_takes_back_its_own_at_once(place: Place) {
    let (steps, runs) = (Counter::new(), Counter::new());
    for process in 0..2 {
        let mut builder = place.engine().await.lease(LONG).executor("named");
        let workflow = resumable(&mut builder, &steps, &runs);
        let engine = builder.launch().await.unwrap();
        if process == 0 {
            engine.start(workflow, &(), Start::new().id("w")).await.unwrap();
            runs.reaches(1).await;
        } else {
            assert_eq!(within(engine.handle(workflow, "w").result()).await.unwrap(), 1);
        }
    }
}

pub(crate) async fn executors_without_a_lease_are_left_alone(place: Place) {
    let (steps, runs) = (Counter::new(), Counter::new());
    let mut builder = place.engine().await;
    let workflow = resumable(&mut builder, &steps, &runs);
    runs.add();
    let engine = builder.launch().await.unwrap();
    // As DBOS's own libraries leave a row.
    let handle = engine.start(workflow, &(), Start::new().id("w")).await.unwrap();
    within(handle.result()).await.unwrap();
    let mut export = engine.export("w").await.unwrap();
    engine.delete(["w"], false).await.unwrap();
    export.run.status = Status::Pending;
    export.run.executor = Some("theirs".into());
    export.run.owner = Some("their token".into());
    export.run.output = None;
    engine.store().import(&[export]).await.unwrap();
    // Longer than our lease, in which others would have been missed.
    let mut builder = place.engine().await;
    resumable(&mut builder, &steps, &runs);
    let dies = builder.launch().await.unwrap();
    drop(dies);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(engine.get("w").await.unwrap().executor.as_deref(), Some("theirs"));
    assert!(engine.recover(["theirs"], Some("v9")).await.unwrap().is_empty(), "of another version there is nothing");
    assert_eq!(engine.recover(["theirs"], None).await.unwrap(), ["w"]);
    assert!(engine.recover(["theirs"], None).await.unwrap().is_empty(), "a second call harms nobody");
    assert_eq!(within(engine.handle(workflow, "w").result()).await.unwrap(), 1);
}

/// Everything that a workflow can do, with a count of the effects of its steps.
fn everything(builder: &mut EngineBuilder, effects: &[Counter; 2]) -> Workflow<(), Vec<String>> {
    let effects = effects.clone();
    let child =
        builder.register("child", |_: Ctx, name: String| async move { Ok::<_, Failure>(format!("child {name}")) });
    builder.register("everything", move |ctx: Ctx, (): ()| {
        let effects = effects.clone();
        async move {
            let own = ctx.id().to_owned();
            let one = ctx.step("one", || async { Ok(effects[0].add().min(1)) }).await?;
            let child = ctx.child(child, &"c".to_owned(), Start::new()).await?.result().await?;
            ctx.send(&own, "self", &"message").await?;
            let message = ctx.recv::<String>("self", LONG).await?;
            ctx.sleep(Duration::from_millis(5)).await?;
            ctx.set_event("event", &1).await?;
            ctx.write_stream("stream", &1).await?;
            ctx.close_stream("stream").await?;
            let two = ctx.step("two", || async { Ok(effects[1].add().min(1)) }).await?;
            let late = ctx.recv::<String>("never", Duration::from_millis(5)).await?;
            Ok::<_, Failure>(vec![
                one.to_string(),
                child,
                message.unwrap_or_default(),
                two.to_string(),
                format!("{late:?}"),
            ])
        }
    })
}

/// Kills the engine before and after each of its writes, and lets another one go on.
pub(crate) async fn a_crash_at_each_write_ends_in_the_same_result(place: Place) {
    let expected = ["1", "child c", "message", "1", "None"];
    let mut crashes = 0;
    for boundary in 0.. {
        for written in [false, true] {
            let effects = [Counter::new(), Counter::new()];
            let id = format!("w-{boundary}-{written}");
            let crash = Crash::at(place.store().await, boundary, written);
            let mut builder =
                Engine::builder().store(Arc::new(crash.clone())).migrate(false).version("v1").executor("crashes");
            let workflow = everything(&mut builder, &effects);
            let engine = builder.launch().await.unwrap();
            let ended = async {
                let handle = engine.start(workflow, &(), Start::new().id(&id)).await.unwrap();
                handle.result().await.unwrap()
            };
            let ended = within(async {
                tokio::select! {
                    result = ended => Some(result),
                    () = crash.crashed() => None,
                }
            });
            let result = ended.await;
            drop(engine);
            if let Some(result) = result {
                assert_eq!(result, expected);
                assert!(boundary >= 15, "it was killed at each write: {boundary}");
                assert_eq!(crashes, boundary * 2 + usize::from(written));
                return;
            }
            crashes += 1;
            let mut builder = place.engine().await.executor("crashes");
            everything(&mut builder, &effects);
            let engine = builder.launch().await.unwrap();
            if engine.get(&id).await.is_err() {
                // It was killed before it was stored.
                engine.start(workflow, &(), Start::new().id(&id)).await.unwrap();
            }
            assert_eq!(
                within(engine.handle(workflow, &id).result()).await.unwrap(),
                expected,
                "killed at {boundary} {written}"
            );
            for effect in &effects {
                assert!((1..=2).contains(&effect.get()), "an effect happens once, or twice if its record was lost");
            }
            let twice = effects.iter().filter(|effect| effect.get() == 2).count();
            assert!(twice <= 1, "only the step that was killed is done again");
            assert!(!written || twice == 0, "what was recorded is not done again");
            assert_eq!(engine.messages(&id).await.unwrap().len(), 1, "killed at {boundary} {written}");
            assert_eq!(engine.events(&id).await.unwrap().len(), 1);
            assert_eq!(engine.stream_now::<u32>(&id, "stream", 0).await.unwrap(), [1]);
            let children = Filter { parents: vec![id.clone()], ..Filter::default() };
            assert_eq!(engine.list(&children).await.unwrap().len(), 1);
            within(engine.shutdown(LONG)).await;
        }
    }
}

pub(crate) async fn two_that_talk_are_both_recovered(place: Place) {
    let begun = Counter::new();
    let register = |builder: &mut EngineBuilder, die: bool| {
        let begun = begun.clone();
        builder.register("talks", move |ctx: Ctx, (other, first): (String, bool)| {
            begun.add();
            async move {
                if die {
                    std::future::pending::<()>().await;
                }
                if first {
                    ctx.send(&other, "t", &1).await?;
                    ctx.recv::<u32>("t", LONG).await
                } else {
                    let received = ctx.recv::<u32>("t", LONG).await?;
                    ctx.send(&other, "t", &2).await?;
                    Ok(received)
                }
            }
        })
    };
    let mut builder = place.engine().await.executor("dies");
    let workflow = register(&mut builder, true);
    let dies = builder.launch().await.unwrap();
    for (id, other, first) in [("a", "b", true), ("b", "a", false)] {
        dies.start(workflow, &(other.to_owned(), first), Start::new().id(id)).await.unwrap();
    }
    begun.reaches(2).await;
    drop(dies);
    let mut builder = place.engine().await.executor("dies");
    register(&mut builder, false);
    let engine = builder.launch().await.unwrap();
    assert_eq!(within(engine.handle(workflow, "a").result()).await.unwrap(), Some(2));
    assert_eq!(within(engine.handle(workflow, "b").result()).await.unwrap(), Some(1));
    let _: Arc<dyn Store> = Arc::clone(engine.store());
}
