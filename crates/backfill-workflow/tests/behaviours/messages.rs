//! Messages.

use std::time::Duration;

use backfill_workflow::{Ctx, Error, Failure, ForkFrom, Start};

use crate::place::{Place, within};

const LONG: Duration = Duration::from_secs(60);

pub(crate) async fn they_come_in_order_by_topic(place: Place) {
    let mut builder = place.engine().await;
    let receiver = builder.register("receives", |ctx: Ctx, (): ()| async move {
        let mut received = Vec::new();
        for _ in 0..10 {
            received.push(ctx.recv::<u32>("a", LONG).await?);
        }
        let other = ctx.recv::<String>("", LONG).await?;
        Ok::<_, Failure>((received, other))
    });
    let sender = builder.register("sends", |ctx: Ctx, to: String| async move {
        for number in 0..5_u32 {
            ctx.send(&to, "a", &number).await?;
        }
        ctx.send(&to, "", "hello").await
    });
    let engine = builder.launch().await.unwrap();
    let handle = engine.start(receiver, &(), Start::new()).await.unwrap();
    let sent = engine.start(sender, &handle.id().to_owned(), Start::new()).await.unwrap();
    within(sent.result()).await.unwrap();
    let elsewhere = place.client().await;
    for number in 5..10_u32 {
        elsewhere.send(handle.id(), "a", &number, None).await.unwrap();
    }
    let (received, other) = within(handle.result()).await.unwrap();
    assert_eq!(received.into_iter().map(Option::unwrap).collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
    assert_eq!(other.as_deref(), Some("hello"));
}

pub(crate) async fn one_that_does_not_come_is_none_and_stays_it(place: Place) {
    let mut builder = place.engine().await;
    let workflow = builder.register("receives", |ctx: Ctx, (): ()| async move {
        ctx.recv::<u32>("late", Duration::from_millis(50)).await
    });
    let engine = builder.launch().await.unwrap();
    let handle = engine.start(workflow, &(), Start::new()).await.unwrap();
    assert_eq!(within(handle.result()).await.unwrap(), None);
    let steps = engine.steps(handle.id()).await.unwrap();
    assert_eq!(
        steps.iter().map(|step| (step.number, step.name.as_str())).collect::<Vec<_>>(),
        [(0, "DBOS.recv"), (1, "DBOS.sleep")]
    );
    engine.send(handle.id(), "late", &1, None).await.unwrap();
    let fork = engine.fork(workflow, handle.id(), ForkFrom::Step(9), Start::new()).await.unwrap();
    assert_eq!(within(fork.result()).await.unwrap(), None, "a message that came since is not received");
}

pub(crate) async fn a_key_is_sent_once(place: Place) {
    let mut builder = place.engine().await;
    let workflow = builder.register("receives", |ctx: Ctx, (): ()| async move {
        let first = ctx.recv::<u32>("t", LONG).await?;
        let second = ctx.recv::<u32>("t", Duration::from_millis(50)).await?;
        Ok::<_, Failure>((first, second))
    });
    let engine = builder.launch().await.unwrap();
    let handle = engine.start(workflow, &(), Start::new().id("r")).await.unwrap();
    for _ in 0..3 {
        engine.send("r", "t", &7, Some("key")).await.unwrap();
    }
    assert_eq!(within(handle.result()).await.unwrap(), (Some(7), None));
    assert_eq!(engine.messages("r").await.unwrap()[0].id, "key::r");
}

pub(crate) async fn a_missing_destination_is_said(place: Place) {
    let mut builder = place.engine().await;
    let workflow = builder.register("sends", |ctx: Ctx, (): ()| async move {
        let failure = ctx.send("nobody", "t", &1).await.unwrap_err();
        Ok::<_, Failure>((failure.name().to_owned(), failure.to_string()))
    });
    let engine = builder.launch().await.unwrap();
    let handle = engine.start(workflow, &(), Start::new()).await.unwrap();
    let first = within(handle.result()).await.unwrap();
    assert_eq!(first.0, "NoWorkflow");
    let fork = engine.fork(workflow, handle.id(), ForkFrom::Step(9), Start::new()).await.unwrap();
    assert_eq!(within(fork.result()).await.unwrap(), first, "the failure is recorded");
    assert!(matches!(engine.send("nobody", "t", &1, None).await, Err(Error::NoWorkflow { .. })));
}

pub(crate) async fn two_who_receive_at_once_are_refused(place: Place) {
    let mut builder = place.engine().await;
    let workflow = builder.register("receives", |ctx: Ctx, (): ()| async move {
        let (one, two) = tokio::join!(ctx.recv::<u32>("t", LONG), ctx.recv::<u32>("t", LONG));
        let refused = one.as_ref().err().or(two.as_ref().err()).map(|failure| failure.name().to_owned());
        Ok::<_, Failure>((one.ok().flatten().or(two.ok().flatten()), refused))
    });
    let engine = builder.launch().await.unwrap();
    let handle = engine.start(workflow, &(), Start::new()).await.unwrap();
    engine.send(handle.id(), "t", &1, None).await.unwrap();
    assert_eq!(within(handle.result()).await.unwrap(), (Some(1), Some("ReceiveConflict".to_owned())));
}

pub(crate) async fn a_received_message_is_not_received_again(place: Place) {
    let mut builder = place.engine().await;
    let workflow = builder.register("receives", |ctx: Ctx, (): ()| async move {
        let one = ctx.recv::<u32>("t", LONG).await?;
        ctx.step("between", || async { Ok(()) }).await?;
        let two = ctx.recv::<u32>("t", LONG).await?;
        Ok::<_, Failure>((one, two))
    });
    let engine = builder.launch().await.unwrap();
    let handle = engine.start(workflow, &(), Start::new().id("r")).await.unwrap();
    for number in [1, 2] {
        engine.send("r", "t", &number, None).await.unwrap();
    }
    assert_eq!(within(handle.result()).await.unwrap(), (Some(1), Some(2)));
    // A fork behind the first message has it, and receives the second one again.
    let fork = engine.fork(workflow, "r", ForkFrom::Named("between".into()), Start::new()).await.unwrap();
    assert_eq!(within(fork.result()).await.unwrap(), (Some(1), Some(2)));
    // One from the beginning receives both again.
    let fork = engine.fork(workflow, "r", ForkFrom::Step(0), Start::new()).await.unwrap();
    assert_eq!(within(fork.result()).await.unwrap(), (Some(1), Some(2)));
    assert!(engine.messages("r").await.unwrap().iter().all(|message| message.consumed));
}
