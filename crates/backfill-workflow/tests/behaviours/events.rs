//! Events and streams.

use std::time::Duration;

use backfill_workflow::{Ctx, Error, Failure, Start};

use crate::place::{Counter, Place, within};

const LONG: Duration = Duration::from_secs(60);

pub(crate) async fn one_is_waited_for_and_the_last_value_holds(place: Place) {
    let mut builder = place.engine().await;
    let setter = builder.register("sets", |ctx: Ctx, (): ()| async move {
        ctx.recv::<()>("go", LONG).await?;
        ctx.set_event("progress", &1).await?;
        ctx.set_event("progress", &2).await?;
        ctx.set_event("done", &true).await
    });
    let getter = builder.register("gets", |ctx: Ctx, from: String| async move {
        let done = ctx.get_event::<bool>(&from, "done", LONG).await?;
        let progress = ctx.get_event::<u32>(&from, "progress", LONG).await?;
        Ok::<_, Failure>((done, progress))
    });
    let engine = builder.launch().await.unwrap();
    let sets = engine.start(setter, &(), Start::new()).await.unwrap();
    let gets = engine.start(getter, &sets.id().to_owned(), Start::new()).await.unwrap();
    let elsewhere = place.client().await;
    let (outside, ()) = tokio::join!(elsewhere.get_event::<bool>(sets.id(), "done", LONG), async {
        engine.send(sets.id(), "go", &(), None).await.unwrap();
    });
    assert_eq!(outside.unwrap(), Some(true));
    assert_eq!(within(gets.result()).await.unwrap(), (Some(true), Some(2)));
    let events = engine.events(sets.id()).await.unwrap();
    assert_eq!(events.iter().map(|event| event.value.text.as_str()).collect::<Vec<_>>(), ["1", "2", "true"]);
}

pub(crate) async fn many_wait_for_one(place: Place) {
    let mut builder = place.engine().await;
    let setter = builder.register("sets", |ctx: Ctx, (): ()| async move {
        ctx.recv::<()>("go", LONG).await?;
        ctx.set_event("e", "now").await
    });
    let engine = builder.launch().await.unwrap();
    let sets = engine.start(setter, &(), Start::new()).await.unwrap();
    let waiting = (0..20).map(|_| engine.get_event::<String>(sets.id(), "e", LONG));
    // One gives up; the others are woken all the same.
    let gives_up = engine.get_event::<String>(sets.id(), "e", Duration::from_millis(10));
    assert_eq!(gives_up.await.unwrap(), None);
    let (values, ()) = tokio::join!(futures::future::join_all(waiting), async {
        engine.send(sets.id(), "go", &(), None).await.unwrap();
    });
    assert!(values.into_iter().all(|value| value.unwrap().as_deref() == Some("now")));
}

pub(crate) async fn one_that_is_not_set_is_none(place: Place) {
    let mut builder = place.engine().await;
    let workflow = builder.register("gets", |ctx: Ctx, (): ()| async move {
        let own = ctx.id().to_owned();
        ctx.get_event::<u32>(&own, "never", Duration::from_millis(30)).await
    });
    let engine = builder.launch().await.unwrap();
    let handle = engine.start(workflow, &(), Start::new()).await.unwrap();
    assert_eq!(within(handle.result()).await.unwrap(), None);
    let steps = engine.steps(handle.id()).await.unwrap();
    assert_eq!(steps.iter().map(|step| step.name.as_str()).collect::<Vec<_>>(), ["DBOS.getEvent", "DBOS.sleep"]);
    assert_eq!(engine.get_event::<u32>("nobody", "never", Duration::from_millis(10)).await.unwrap(), None);
}

pub(crate) async fn a_stream_is_read_to_its_end(place: Place) {
    let mut builder = place.engine().await;
    let writer = builder.register("writes", |ctx: Ctx, (): ()| async move {
        for number in 0..10 {
            ctx.write_stream("s", &number).await?;
        }
        ctx.close_stream("s").await?;
        ctx.recv::<()>("end", LONG).await.map(drop)
    });
    let engine = builder.launch().await.unwrap();
    let handle = engine.start(writer, &(), Start::new()).await.unwrap();
    let reader = place.client().await;
    let mut read: Vec<u32> = Vec::new();
    while let Some(values) =
        within(reader.read_stream::<u32>(handle.id(), "s", u32::try_from(read.len()).unwrap())).await.unwrap()
    {
        read.extend(values);
    }
    assert_eq!(read, (0..10).collect::<Vec<_>>());
    assert_eq!(reader.stream_now::<u32>(handle.id(), "s", 7).await.unwrap(), [7, 8, 9]);
    engine.send(handle.id(), "end", &(), None).await.unwrap();
    within(handle.result()).await.unwrap();
}

pub(crate) async fn a_stream_ends_with_its_workflow(place: Place) {
    let mut builder = place.engine().await;
    let began = Counter::new();
    let count = began.clone();
    let writer = builder.register("writes", move |ctx: Ctx, (): ()| {
        let count = count.clone();
        async move {
            ctx.write_stream("s", "only").await?;
            count.add();
            ctx.recv::<()>("end", LONG).await?;
            ctx.write_stream("s", "last").await
        }
    });
    let engine = builder.launch().await.unwrap();
    let handle = engine.start(writer, &(), Start::new()).await.unwrap();
    began.reaches(1).await;
    let reader = place.client().await;
    assert_eq!(within(reader.read_stream::<String>(handle.id(), "s", 0)).await.unwrap().unwrap(), ["only"]);
    let (next, ()) = tokio::join!(within(reader.read_stream::<String>(handle.id(), "s", 1)), async {
        engine.send(handle.id(), "end", &(), None).await.unwrap();
    });
    assert_eq!(next.unwrap().unwrap(), ["last"]);
    assert_eq!(within(reader.read_stream::<String>(handle.id(), "s", 2)).await.unwrap(), None);
    assert!(matches!(reader.read_stream::<String>("nobody", "s", 0).await, Err(Error::NoWorkflow { .. })));
}

pub(crate) async fn a_closed_stream_is_not_written_to(place: Place) {
    let mut builder = place.engine().await;
    let writer = builder.register("writes", |ctx: Ctx, (): ()| async move {
        ctx.write_stream("s", &1).await?;
        ctx.close_stream("s").await?;
        let refused = ctx.write_stream("s", &2).await.unwrap_err();
        let own = ctx.id().to_owned();
        let values = ctx.read_stream::<u32>(&own, "s", 0).await?;
        Ok::<_, Failure>((refused.name().to_owned(), values))
    });
    let engine = builder.launch().await.unwrap();
    let handle = engine.start(writer, &(), Start::new()).await.unwrap();
    assert_eq!(within(handle.result()).await.unwrap(), ("StreamClosed".to_owned(), vec![1]));
}
