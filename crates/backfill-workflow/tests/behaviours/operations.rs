//! Forks, deletion, exports, lists, versions.

use std::time::Duration;

use backfill_workflow::{
    Ctx, EngineBuilder, Error, Failure, Filter, ForkFrom, Queue, Retention, Start, Status, Workflow,
};

use crate::place::{Counter, Place, within};

/// Three steps, an event and a stream between them.
fn forked(builder: &mut EngineBuilder, calls: &[Counter; 3]) -> Workflow<(), Vec<usize>> {
    let calls = calls.clone();
    builder.register("forked", move |ctx: Ctx, (): ()| {
        let calls = calls.clone();
        async move {
            let mut results = Vec::new();
            results.push(ctx.step("a", || async { Ok(calls[0].add()) }).await?);
            ctx.set_event("e", &results[0]).await?;
            ctx.write_stream("s", &results[0]).await?;
            results.push(ctx.step("b", || async { Ok(calls[1].add()) }).await?);
            ctx.set_event("e", &(results[1] * 10)).await?;
            ctx.write_stream("s", &(results[1] * 10)).await?;
            results.push(ctx.step("c", || async { Ok(calls[2].add()) }).await?);
            Ok::<_, Failure>(results)
        }
    })
}

pub(crate) async fn a_fork_has_what_was_before_its_step(place: Place) {
    for from in 0..=7 {
        let calls = [Counter::new(), Counter::new(), Counter::new()];
        let mut builder = place.engine().await.version("v2").queue(Queue::new("forks"));
        let workflow = forked(&mut builder, &calls);
        let engine = builder.launch().await.unwrap();
        let (id, fork_id) = (format!("w{from}"), format!("f{from}"));
        let handle = engine.start(workflow, &(), Start::new().id(&id)).await.unwrap();
        within(handle.result()).await.unwrap();
        let before = engine.export(&id).await.unwrap();
        let start = Start::new().id(&fork_id).queue("forks").version("v2");
        let fork = engine.fork(workflow, &id, ForkFrom::Step(from), start).await.unwrap();
        let expected: Vec<usize> = [0, 3, 6].map(|step| if from <= step { 2 } else { 1 }).to_vec();
        assert_eq!(within(fork.result()).await.unwrap(), expected, "from {from}");
        let mut after = engine.export(&id).await.unwrap();
        assert!(after.run.was_forked_from);
        after.run.was_forked_from = false;
        assert_eq!(before, after, "the source stays as it is");
        let run = fork.get().await.unwrap();
        assert_eq!((run.forked_from.as_deref(), run.queue.as_deref()), (Some(id.as_str()), Some("forks")));
        let value = engine.get_event::<usize>(&fork_id, "e", Duration::ZERO).await.unwrap();
        assert_eq!(value, Some(expected[1] * 10));
        let stream = engine.stream_now::<usize>(&fork_id, "s", 0).await.unwrap();
        assert_eq!(stream, [if from <= 0 { 2 } else { 1 }, expected[1] * 10]);
        engine.shutdown(Duration::from_secs(10)).await;
    }
}

pub(crate) async fn a_fork_begins_at_a_name_or_the_last_failure(place: Place) {
    let (heals, calls) = (Counter::new(), Counter::new());
    let mut builder = place.engine().await;
    let (one, two) = (heals.clone(), calls.clone());
    let workflow = builder.register("heals", move |ctx: Ctx, (): ()| {
        let (one, two) = (one.clone(), two.clone());
        async move {
            ctx.step("a", || async { Ok(two.add()) }).await?;
            ctx.step("b", || async { if one.get() > 0 { Ok(1) } else { Err(Failure::message("not yet")) } }).await
        }
    });
    let engine = builder.launch().await.unwrap();
    let handle = engine.start(workflow, &(), Start::new().id("w")).await.unwrap();
    within(handle.result()).await.unwrap_err();
    heals.add();
    for (from, count) in [(ForkFrom::LastFailure, 1), (ForkFrom::LastStep, 1), (ForkFrom::Named("a".into()), 2)] {
        let fork = engine.fork(workflow, "w", from, Start::new()).await.unwrap();
        assert_eq!(within(fork.result()).await.unwrap(), 1);
        assert_eq!(calls.get(), count);
    }
    let error = engine.fork(workflow, "w", ForkFrom::Named("z".into()), Start::new()).await.unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }), "{error}");
    let error = engine.fork(workflow, "nobody", ForkFrom::Step(0), Start::new()).await.unwrap_err();
    assert!(matches!(error, Error::NoWorkflow { .. }), "{error}");
}

pub(crate) async fn old_ones_are_deleted_and_no_others(place: Place) {
    let mut builder = place.engine().await;
    let quick = builder.register("quick", |ctx: Ctx, (): ()| async move { ctx.step("s", || async { Ok(()) }).await });
    let endless = builder.register("endless", |ctx: Ctx, (): ()| async move {
        ctx.sleep(Duration::from_secs(3600)).await.map_err(Failure::from)
    });
    let engine = builder.launch().await.unwrap();
    engine.start(endless, &(), Start::new().id("runs")).await.unwrap();
    for number in 0..10 {
        let handle = engine.start(quick, &(), Start::new().id(format!("w{number}"))).await.unwrap();
        within(handle.result()).await.unwrap();
        // Ends of one millisecond are of one age.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let old = Retention { older_than: Some(Duration::from_secs(3600)), keep_newest: None };
    assert_eq!(engine.delete_old(old).await.unwrap(), 0);
    let surplus = Retention { older_than: None, keep_newest: Some(4) };
    assert_eq!(engine.delete_old(surplus).await.unwrap(), 6);
    let left = engine.list(&Filter::default()).await.unwrap();
    let ids: Vec<&str> = left.iter().map(|run| run.id.as_str()).collect();
    assert_eq!(ids, ["runs", "w6", "w7", "w8", "w9"]);
    assert!(engine.steps("w0").await.unwrap().is_empty(), "its steps are gone, too");
    let all = Retention { older_than: Some(Duration::ZERO), keep_newest: None };
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!(engine.delete_old(all).await.unwrap(), 4);
    assert_eq!(engine.get("runs").await.unwrap().status, Status::Pending);
}

pub(crate) async fn an_export_comes_back_as_it_was(place: Place) {
    let calls = [Counter::new(), Counter::new(), Counter::new()];
    let mut builder = place.engine().await;
    let workflow = forked(&mut builder, &calls);
    let engine = builder.launch().await.unwrap();
    let start = Start::new().id("w").user("ada").roles(["a"]).attributes(&serde_json::json!({ "order": 17 }));
    let handle = engine.start(workflow, &(), start).await.unwrap();
    within(handle.result()).await.unwrap();
    engine.send("w", "t", &1, None).await.unwrap();
    let export = engine.export("w").await.unwrap();
    let text = serde_json::to_string(&export).unwrap();
    assert_eq!(engine.delete(["w"], true).await.unwrap(), ["w"]);
    let read = serde_json::from_str(&text).unwrap();
    assert!(engine.import(&[read]).await.unwrap().is_empty());
    assert_eq!(engine.export("w").await.unwrap(), export);
    assert_eq!(within(engine.handle(workflow, "w").result()).await.unwrap(), [1, 1, 1]);
    assert_eq!(engine.import(std::slice::from_ref(&export)).await.unwrap(), ["w"]);
}

pub(crate) async fn what_is_asked_for_is_listed(place: Place) {
    let mut builder = place.engine().await.queue(Queue::new("q"));
    let well = builder.register("well", |_: Ctx, number: u32| async move { Ok::<_, Failure>(number) });
    let ill = builder.register("ill", |_: Ctx, (): ()| async { Err::<(), _>(Failure::message("no")) });
    let engine = builder.launch().await.unwrap();
    for number in 0..4 {
        let start = Start::new().id(format!("a_{number}")).user(format!("user{}", number % 2));
        within(engine.start(well, &number, start).await.unwrap().result()).await.unwrap();
    }
    let queued = engine.start(well, &9, Start::new().id("a%queued").queue("q")).await.unwrap();
    within(queued.result()).await.unwrap();
    within(engine.start(ill, &(), Start::new().id("b")).await.unwrap().result()).await.unwrap_err();
    let list = async |change: fn(&mut Filter)| {
        let mut filter = Filter::default();
        change(&mut filter);
        let runs = engine.list(&filter).await.unwrap();
        let by_hand: Vec<String> = engine
            .list(&Filter::default())
            .await
            .unwrap()
            .into_iter()
            .filter(|run| filter.matches(run))
            .map(|run| run.id)
            .collect();
        let mut ids: Vec<String> = runs.into_iter().map(|run| run.id).collect();
        if filter.limit.is_none() {
            let mut sorted = ids.clone();
            sorted.sort();
            let mut expected = by_hand;
            expected.sort();
            assert_eq!(sorted, expected, "the storage and the filter agree");
        }
        ids.truncate(9);
        ids
    };
    assert_eq!(list(|f| f.id_prefixes = vec!["a_".into()]).await, ["a_0", "a_1", "a_2", "a_3"]);
    assert_eq!(list(|f| f.id_prefixes = vec!["a%".into()]).await, ["a%queued"]);
    assert_eq!(list(|f| f.users = vec!["user1".into()]).await, ["a_1", "a_3"]);
    assert_eq!(list(|f| f.statuses = vec![Status::Error, Status::Cancelled]).await, ["b"]);
    assert_eq!(list(|f| f.names = vec!["ill".into()]).await, ["b"]);
    assert_eq!(list(|f| f.queues = vec!["q".into()]).await, ["a%queued"]);
    assert_eq!(list(|f| f.queued_only = true).await, ["a%queued"]);
    assert_eq!(list(|f| f.versions = vec!["v0".into()]).await, Vec::<String>::new());
    assert_eq!(list(|f| f.has_parent = Some(true)).await, Vec::<String>::new());
    assert_eq!(list(|f| f.was_forked_from = Some(false)).await.len(), 6);
    assert_eq!(list(|f| f.completed_until = Some(0)).await.len(), 0);
    assert_eq!(list(|f| f.created_from = Some(0)).await.len(), 6);
    let page = list(|f| {
        f.newest_first = true;
        f.limit = Some(2);
        f.offset = 1;
    });
    assert_eq!(page.await, ["a%queued", "a_3"]);
    let values = engine.list(&Filter::default()).await.unwrap();
    assert!(values.iter().all(|run| run.input.is_none() && run.output.is_none()));
    let counts = engine.counts(&Filter::default()).await.unwrap();
    let count = |name: &str| counts.iter().filter(|count| count.name == name).map(|count| count.count).sum::<i64>();
    assert_eq!((count("well"), count("ill")), (5, 1));
}

pub(crate) async fn texts_are_stored_as_they_are(place: Place) {
    let evil = "Robert'); drop table workflow_status; -- \"\\ % _ \u{1F980} {}[]";
    let mut builder = place.engine().await.queue(Queue::new(evil));
    let workflow = builder.register("echo", move |ctx: Ctx, text: String| async move {
        let step = ctx.step(text.clone(), || async { Ok(text.clone()) }).await?;
        ctx.set_event(&text, &text).await?;
        ctx.write_stream(&text, &text).await?;
        Ok::<_, Failure>(step)
    });
    let engine = builder.launch().await.unwrap();
    let start =
        Start::new().id(evil).queue(evil).user(evil).role(evil).roles([evil]).deduplication(evil).attributes(evil);
    let handle = engine.start(workflow, &evil.to_owned(), start).await.unwrap();
    assert_eq!(within(handle.result()).await.unwrap(), evil);
    engine.send(evil, evil, evil, Some(evil)).await.unwrap();
    let run = engine.get(evil).await.unwrap();
    assert_eq!(
        (run.queue.as_deref(), run.user.as_deref(), run.attributes),
        (Some(evil), Some(evil), Some(evil.into()))
    );
    assert_eq!(engine.steps(evil).await.unwrap()[0].name, evil);
    assert_eq!(engine.get_event::<String>(evil, evil, Duration::ZERO).await.unwrap().as_deref(), Some(evil));
    assert_eq!(engine.stream_now::<String>(evil, evil, 0).await.unwrap(), [evil]);
    assert_eq!(engine.messages(evil).await.unwrap()[0].topic.as_deref(), Some(evil));
}

pub(crate) async fn the_latest_version_can_be_set(place: Place) {
    let client = place.client().await;
    for version in ["v1", "v2", "v3"] {
        place.engine().await.version(version).launch().await.unwrap().shutdown(Duration::ZERO).await;
    }
    // One that was launched before does not become the latest by another launch.
    place.engine().await.version("v1").launch().await.unwrap().shutdown(Duration::ZERO).await;
    let names = async || client.versions().await.unwrap().into_iter().map(|version| version.name).collect::<Vec<_>>();
    assert_eq!(names().await, ["v3", "v2", "v1"]);
    client.set_latest_version("v2").await.unwrap();
    assert_eq!(client.latest_version().await.unwrap().unwrap().name, "v2");
    assert_eq!(names().await, ["v2", "v3", "v1"]);
    assert!(matches!(client.set_latest_version("v9").await, Err(Error::Invalid { .. })));
}

pub(crate) async fn a_resumed_delay_is_skipped(place: Place) {
    let mut builder = place.engine().await.queue(Queue::new("q"));
    let workflow = builder.register("quick", |_: Ctx, (): ()| async { Ok::<_, Failure>(1) });
    let engine = builder.launch().await.unwrap();
    let start = Start::new().queue("q").delay(Duration::from_secs(3600));
    let handle = engine.start(workflow, &(), start).await.unwrap();
    engine.resume([handle.id()], None).await.unwrap();
    assert_eq!(within(handle.result()).await.unwrap(), 1);
}
