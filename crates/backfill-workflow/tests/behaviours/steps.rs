//! Steps and replay.

use std::time::Duration;

use backfill_workflow::{Backoff, Ctx, Failure, ForkFrom, Start, Status, Workflow};
use futures::FutureExt;

use crate::place::{Counter, Place, within};

/// Begins a workflow again as after a crash: everything that it has recorded is replayed.
async fn replayed<O: serde::de::DeserializeOwned>(
    client: &backfill_workflow::Client,
    id: &str,
    name: &'static str,
) -> Result<O, Failure> {
    let fork = client.fork(Workflow::<(), O>::named(name), id, ForkFrom::Step(1000), Start::new()).await.unwrap();
    within(fork.result()).await
}

pub(crate) async fn a_finished_step_is_not_run_again(place: Place) {
    let calls = Counter::new();
    let mut builder = place.engine().await;
    let count = calls.clone();
    let workflow = builder.register("steps", move |ctx: Ctx, (): ()| {
        let count = count.clone();
        async move { ctx.step("count", || async { Ok(count.add()) }).await }
    });
    let engine = builder.launch().await.unwrap();
    let handle = engine.start(workflow, &(), Start::new()).await.unwrap();
    assert_eq!(within(handle.result()).await.unwrap(), 1);
    assert_eq!(replayed::<usize>(&engine, handle.id(), "steps").await.unwrap(), 1);
    assert_eq!(calls.get(), 1, "the step's code ran once");
}

pub(crate) async fn a_recorded_failure_is_replayed(place: Place) {
    let calls = Counter::new();
    let mut builder = place.engine().await;
    let count = calls.clone();
    let workflow = builder.register("steps", move |ctx: Ctx, (): ()| {
        let count = count.clone();
        async move {
            let failed = ctx
                .step("fails", || async {
                    count.add();
                    Err::<(), _>(Failure::new("NoStock", "there is no stock").code(7).data(&["a", "b"]))
                })
                .await
                .unwrap_err();
            Ok::<_, Failure>(failed.envelope().clone())
        }
    });
    let engine = builder.launch().await.unwrap();
    let handle = engine.start(workflow, &(), Start::new()).await.unwrap();
    let first = within(handle.result()).await.unwrap();
    let again = replayed::<backfill_workflow::Envelope>(&engine, handle.id(), "steps").await.unwrap();
    assert_eq!(first, again);
    assert_eq!((first.name.as_str(), first.code), ("NoStock", Some(7.into())));
    assert_eq!(calls.get(), 1);
}

pub(crate) async fn retries_are_counted_and_the_last_result_is_recorded(place: Place) {
    let mut builder = place.engine().await;
    let workflow = builder.register("steps", |ctx: Ctx, fails: usize| async move {
        let calls = Counter::new();
        let result = ctx
            .step("tries", || async {
                let call = calls.add();
                if call <= fails { Err(Failure::message(format!("try {call}"))) } else { Ok(call) }
            })
            .retries(3)
            .backoff(Backoff::constant(Duration::from_millis(1)))
            .await;
        Ok::<_, Failure>((calls.get(), result.map_err(|failure| failure.to_string())))
    });
    let engine = builder.launch().await.unwrap();
    let handle = engine.start(workflow, &2, Start::new()).await.unwrap();
    assert_eq!(within(handle.result()).await.unwrap(), (3, Ok(3)));
    let handle = engine.start(workflow, &9, Start::new()).await.unwrap();
    assert_eq!(within(handle.result()).await.unwrap(), (4, Err("try 4".to_owned())));
    let steps = engine.steps(handle.id()).await.unwrap();
    assert_eq!(steps.len(), 1, "only the last result is recorded");
    assert!(steps[0].error.as_deref().unwrap().contains("try 4"));
}

pub(crate) async fn retries_end_where_they_are_not_worth_it(place: Place) {
    let mut builder = place.engine().await;
    let workflow = builder.register("steps", |ctx: Ctx, (): ()| async move {
        let calls = Counter::new();
        let step = ctx.step("tries", || async {
            Err::<(), _>(Failure::new(if calls.add() == 2 { "Final" } else { "Passing" }, "no"))
        });
        let step =
            step.retries(9).backoff(Backoff::constant(Duration::ZERO)).retry_if(|failure| failure.name() != "Final");
        let _ = step.await;
        Ok::<_, Failure>(calls.get())
    });
    let engine = builder.launch().await.unwrap();
    let handle = engine.start(workflow, &(), Start::new()).await.unwrap();
    assert_eq!(within(handle.result()).await.unwrap(), 2);
}

pub(crate) async fn a_panic_in_a_step_is_a_failure_that_is_retried(place: Place) {
    let mut builder = place.engine().await;
    let workflow = builder.register("steps", |ctx: Ctx, (): ()| async move {
        let calls = Counter::new();
        let work = || async {
            assert!(calls.add() > 1, "the first try panics");
            Ok(calls.get())
        };
        let second = ctx.step("panics once", work).retries(1).backoff(Backoff::constant(Duration::ZERO)).await?;
        let failed = ctx.step("panics", || async { panic!("always") as Result<(), Failure> }).await.unwrap_err();
        Ok::<_, Failure>((second, failed.name().to_owned(), failed.to_string()))
    });
    let engine = builder.launch().await.unwrap();
    let handle = engine.start(workflow, &(), Start::new()).await.unwrap();
    assert_eq!(within(handle.result()).await.unwrap(), (2, "Panic".to_owned(), "always".to_owned()));
}

pub(crate) async fn a_step_that_takes_too_long_has_failed(place: Place) {
    let mut builder = place.engine().await;
    let workflow = builder.register("steps", |ctx: Ctx, (): ()| async move {
        let step = ctx.step("slow", std::future::pending::<Result<(), Failure>>);
        Ok::<_, Failure>(step.timeout(Duration::from_millis(20)).await.unwrap_err().name().to_owned())
    });
    let engine = builder.launch().await.unwrap();
    let handle = engine.start(workflow, &(), Start::new()).await.unwrap();
    assert_eq!(within(handle.result()).await.unwrap(), "StepTimeout");
}

pub(crate) async fn a_renamed_step_is_refused_before_its_effect(place: Place) {
    let effects = Counter::new();
    let mut builder = place.engine().await;
    let workflow =
        builder.register("changed", |ctx: Ctx, (): ()| async move { ctx.step("old", || async { Ok(()) }).await });
    let engine = builder.launch().await.unwrap();
    let handle = engine.start(workflow, &(), Start::new().id("w")).await.unwrap();
    within(handle.result()).await.unwrap();
    engine.shutdown(Duration::from_secs(5)).await;

    // The program has changed.
    let mut builder = place.engine().await;
    let count = effects.clone();
    let workflow = builder.register("changed", move |ctx: Ctx, (): ()| {
        let count = count.clone();
        async move {
            ctx.step("new", || async {
                count.add();
                Ok(())
            })
            .await
        }
    });
    let engine = builder.launch().await.unwrap();
    let fork = engine.fork(workflow, "w", ForkFrom::Step(9), Start::new().id("f")).await.unwrap();
    let failure = within(fork.result()).await.unwrap_err();
    assert_eq!(failure.name(), "UnexpectedStep");
    for word in ["step 0", "\"old\"", "\"new\""] {
        assert!(failure.to_string().contains(word), "{failure}");
    }
    assert_eq!(effects.get(), 0);
}

pub(crate) async fn a_hundred_steps_at_once_have_the_numbers_of_their_calls(place: Place) {
    let mut builder = place.engine().await;
    let workflow = builder.register("steps", |ctx: Ctx, (): ()| async move {
        let steps = (0..100).map(|number: u64| {
            ctx.step(format!("step {number}"), move || async move {
                // They end in another order than they began.
                tokio::time::sleep(Duration::from_millis((number * 37) % 11)).await;
                Ok(number)
            })
        });
        futures::future::try_join_all(steps.collect::<Vec<_>>()).await
    });
    let engine = builder.launch().await.unwrap();
    let handle = engine.start(workflow, &(), Start::new()).await.unwrap();
    let expected: Vec<u64> = (0..100).collect();
    assert_eq!(within(handle.result()).await.unwrap(), expected);
    let steps = engine.steps(handle.id()).await.unwrap();
    assert!(steps.iter().zip(0..).all(|(step, number)| step.number == number && step.name == format!("step {number}")));
    assert_eq!(replayed::<Vec<u64>>(&engine, handle.id(), "steps").await.unwrap(), expected);
}

pub(crate) async fn the_first_of_several_is_the_first_again(place: Place) {
    let slow = Counter::new();
    let mut builder = place.engine().await;
    let count = slow.clone();
    let workflow = builder.register("steps", move |ctx: Ctx, (): ()| {
        let count = count.clone();
        async move {
            // Only in the first run is the first branch slow.
            let first = count.add() == 1;
            let one = ctx.step("one", move || async move {
                if first {
                    std::future::pending::<()>().await;
                }
                Ok("one".to_owned())
            });
            let two = ctx.step("two", || async { Ok("two".to_owned()) });
            let (place, value) = ctx.select(vec![one.boxed(), two.boxed()]).await?;
            Ok::<_, Failure>((place, value?))
        }
    });
    let engine = builder.launch().await.unwrap();
    let handle = engine.start(workflow, &(), Start::new()).await.unwrap();
    assert_eq!(within(handle.result()).await.unwrap(), (1, "two".to_owned()));
    assert_eq!(replayed::<(usize, String)>(&engine, handle.id(), "steps").await.unwrap(), (1, "two".to_owned()));
}

pub(crate) async fn values_stay_the_same(place: Place) {
    let mut builder = place.engine().await;
    let workflow = builder.register("steps", |ctx: Ctx, (): ()| async move {
        let (one, two) = (ctx.uuid().await?, ctx.uuid().await?);
        assert_ne!(one, two);
        Ok::<_, Failure>((
            one.to_string(),
            two.to_string(),
            ctx.now().await?.to_rfc3339(),
            ctx.random().await?.to_string(),
        ))
    });
    let engine = builder.launch().await.unwrap();
    let handle = engine.start(workflow, &(), Start::new()).await.unwrap();
    let values = within(handle.result()).await.unwrap();
    assert_eq!(replayed::<(String, String, String, String)>(&engine, handle.id(), "steps").await.unwrap(), values);
    let names: Vec<String> = engine.steps(handle.id()).await.unwrap().into_iter().map(|step| step.name).collect();
    assert_eq!(names, ["DBOS.randomUUID", "DBOS.randomUUID", "DBOS.now", "DBOS.random"]);
}

pub(crate) async fn a_step_inside_a_step_is_a_part_of_it(place: Place) {
    let mut builder = place.engine().await;
    let workflow = builder.register("steps", |ctx: Ctx, (): ()| async move {
        let inner = ctx.clone();
        let value = ctx
            .step("outer", || async {
                let value = inner.step("inner", || async { Ok(20) }).await?;
                let refused = inner.send("nobody", "", &1).await.unwrap_err();
                assert_eq!(refused.name(), "InsideStep", "{refused}");
                assert_eq!(
                    inner.sleep(Duration::ZERO).await.unwrap_err().to_string().split(':').next(),
                    Some("a sleep inside the step \"outer\"")
                );
                Ok(value + 1)
            })
            .await?;
        Ok::<_, Failure>(value)
    });
    let engine = builder.launch().await.unwrap();
    let handle = engine.start(workflow, &(), Start::new()).await.unwrap();
    assert_eq!(within(handle.result()).await.unwrap(), 21);
    let steps = engine.steps(handle.id()).await.unwrap();
    assert_eq!(steps.iter().map(|step| step.name.as_str()).collect::<Vec<_>>(), ["outer"]);
}

pub(crate) async fn names_of_the_engine_are_refused(place: Place) {
    let mut builder = place.engine().await;
    let workflow = builder.register("steps", |ctx: Ctx, (): ()| async move {
        let failures = [
            ctx.step("DBOS.sleep", || async { Ok(()) }).await.unwrap_err().to_string(),
            ctx.step("", || async { Ok(()) }).await.unwrap_err().to_string(),
        ];
        Ok::<_, Failure>(failures)
    });
    let engine = builder.launch().await.unwrap();
    let handle = engine.start(workflow, &(), Start::new()).await.unwrap();
    let [reserved, empty] = within(handle.result()).await.unwrap();
    assert!(reserved.contains("begins with DBOS."), "{reserved}");
    assert!(empty.contains("must not be empty"), "{empty}");
    assert!(engine.steps(handle.id()).await.unwrap().is_empty());
}

pub(crate) async fn a_step_is_recorded_as_others_read_it(place: Place) {
    let mut builder = place.engine().await;
    let workflow =
        builder.register("steps", |ctx: Ctx, (): ()| async move { ctx.step("one", || async { Ok(vec![1, 2]) }).await });
    let engine = builder.launch().await.unwrap();
    let handle = engine.start(workflow, &(), Start::new()).await.unwrap();
    within(handle.result()).await.unwrap();
    let step = engine.steps(handle.id()).await.unwrap().remove(0);
    assert_eq!((step.number, step.name.as_str(), step.output.as_deref()), (0, "one", Some("[1,2]")));
    assert_eq!(step.format.as_deref(), Some("portable_json"));
    assert!(step.started_at.unwrap() <= step.completed_at.unwrap());
    let run = handle.get().await.unwrap();
    assert_eq!((run.status, run.output.as_deref(), run.attempts), (Status::Success, Some("[1,2]"), 1));
    assert_eq!(run.owner, None, "nobody may write any more");
}

pub(crate) async fn a_patch_is_taken_by_new_workflows_alone(place: Place) {
    let mut builder = place.engine().await;
    let workflow = builder.register("patched", |ctx: Ctx, (): ()| async move {
        ctx.step("a", || async { Ok(()) }).await?;
        ctx.step("b", || async { Ok("old".to_owned()) }).await
    });
    let engine = builder.launch().await.unwrap();
    let old = engine.start(workflow, &(), Start::new().id("old")).await.unwrap();
    within(old.result()).await.unwrap();
    engine.shutdown(Duration::from_secs(5)).await;

    let mut builder = place.engine().await;
    let workflow = builder.register("patched", |ctx: Ctx, (): ()| async move {
        ctx.step("a", || async { Ok(()) }).await?;
        if ctx.patch("new-b").await? {
            ctx.step("new b", || async { Ok("new".to_owned()) }).await
        } else {
            ctx.step("b", || async { Ok("old".to_owned()) }).await
        }
    });
    let engine = builder.launch().await.unwrap();
    let new = engine.start(workflow, &(), Start::new().id("new")).await.unwrap();
    assert_eq!(within(new.result()).await.unwrap(), "new");
    assert_eq!(replayed::<String>(&engine, "old", "patched").await.unwrap(), "old");
    assert_eq!(replayed::<String>(&engine, "new", "patched").await.unwrap(), "new");
    assert_eq!(engine.steps("new").await.unwrap()[1].name, "DBOS.patch-new-b");
    engine.shutdown(Duration::from_secs(5)).await;

    // Nobody is left who has not taken it.
    let mut builder = place.engine().await;
    let workflow = builder.register("patched", |ctx: Ctx, (): ()| async move {
        ctx.step("a", || async { Ok(()) }).await?;
        ctx.deprecate_patch("new-b")?;
        ctx.step("new b", || async { Ok("new".to_owned()) }).await
    });
    let engine = builder.launch().await.unwrap();
    assert_eq!(replayed::<String>(&engine, "new", "patched").await.unwrap(), "new");
    let newest = engine.start(workflow, &(), Start::new()).await.unwrap();
    assert_eq!(within(newest.result()).await.unwrap(), "new");
    assert_eq!(engine.steps(newest.id()).await.unwrap().len(), 2, "new ones have no mark");
}
