//! What users test their workflows with.
#![allow(clippy::unwrap_used, reason = "what fails here is a failed test")]

use std::sync::Arc;
use std::time::Duration;

use backfill_workflow::store::{Export, MemoryStore};
use backfill_workflow::testing::{Crash, Difference, Write, check};
use backfill_workflow::{Ctx, Engine, Failure, Start};

async fn order(ctx: Ctx, article: String) -> Result<String, Failure> {
    ctx.step("charge", || async { Ok(()) }).await?;
    ctx.sleep(Duration::from_millis(1)).await?;
    ctx.step("ship", || async { Ok(format!("{article} is shipped")) }).await
}

async fn history() -> Export {
    let mut builder = Engine::builder().url("memory:");
    let order = builder.register("order", order);
    let engine = builder.launch().await.unwrap();
    let handle = engine.start(order, &"a book".to_owned(), Start::new()).await.unwrap();
    handle.result().await.unwrap();
    engine.export(handle.id()).await.unwrap()
}

#[tokio::test]
async fn changed_code_is_compared_with_a_history() {
    let history = history().await;
    assert_eq!(check(&history, order).await.unwrap(), None);

    let difference = check(&history, renamed).await.unwrap();
    let expected = Difference::Renamed { step: 0, recorded: "charge".into(), found: "pay".into() };
    assert_eq!(difference, Some(expected));

    let difference = check(&history, longer).await.unwrap();
    assert_eq!(difference, Some(Difference::Longer { step: 3, found: "thank".into() }));
    let difference = check(&history, shorter).await.unwrap();
    assert_eq!(difference, Some(Difference::Shorter { step: 1, recorded: "DBOS.sleep".into() }));
    let difference = check(&history, otherwise).await.unwrap();
    let end = Difference::OtherEnd { recorded: "\"a book is shipped\"".into(), found: "\"lost\"".into() };
    assert_eq!(difference, Some(end));

    // Of one that has not ended, what comes behind the record is not looked at.
    let mut running = history.clone();
    running.run.status = backfill_workflow::Status::Pending;
    running.steps.truncate(1);
    assert_eq!(check(&running, longer).await.unwrap(), None);
}

async fn renamed(ctx: Ctx, _: String) -> Result<String, Failure> {
    ctx.step("pay", || async { Ok(()) }).await?;
    Ok(String::new())
}

async fn longer(ctx: Ctx, article: String) -> Result<String, Failure> {
    let shipped = order(ctx.clone(), article).await?;
    ctx.step("thank", || async { Ok(()) }).await?;
    Ok(shipped)
}

async fn shorter(ctx: Ctx, _: String) -> Result<String, Failure> {
    ctx.step("charge", || async { Ok(()) }).await?;
    Ok("a book is shipped".to_owned())
}

async fn otherwise(ctx: Ctx, article: String) -> Result<String, Failure> {
    order(ctx, article).await?;
    Ok("lost".to_owned())
}

#[tokio::test]
async fn a_process_that_died_tells_what_it_was_writing() {
    let store = MemoryStore::new();
    let crash = Crash::at(Arc::new(store), 1, false);
    let mut builder = Engine::builder().store(Arc::new(crash.clone()));
    let order = builder.register("order", order);
    let engine = builder.launch().await.unwrap();
    let _handle = engine.start(order, &"a book".to_owned(), Start::new()).await.unwrap();
    crash.crashed().await;
    assert_eq!(crash.last(), Some(Write::Step { number: 0, name: "charge".into() }));
}
