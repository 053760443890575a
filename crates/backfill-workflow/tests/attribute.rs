//! The attribute `#[workflow]`: sugar for registering, and nothing else.
#![allow(clippy::unwrap_used, reason = "what fails here is a failed test")]

use std::time::Duration;

use backfill_workflow::{Ctx, Engine, Failure, Filter, Start, Tick, Workflow, workflow};

#[workflow]
async fn double(ctx: Ctx, number: i64) -> Result<i64, Failure> {
    ctx.step("double", || async { Ok(number * 2) }).await
}

mod elsewhere {
    use super::{Ctx, Failure, workflow};

    #[workflow(name = "greeting")]
    pub async fn greet(_: Ctx, name: String) -> Result<String, Failure> {
        Ok(format!("Hello {name}"))
    }
}

#[workflow(schedule = "* * * * * *")]
async fn each_second(_: Ctx, tick: Tick) -> Result<i64, Failure> {
    Ok(tick.scheduled_time.timestamp())
}

#[tokio::test]
async fn functions_with_the_attribute_are_registered_without_a_list() {
    let engine = Engine::builder().url("memory:").collected().launch().await.unwrap();
    let handle = engine.start(DOUBLE, &21, Start::new()).await.unwrap();
    assert_eq!(handle.result().await.unwrap(), 42);
    assert_eq!(elsewhere::GREET.name(), "greeting");
    let handle = engine.start(elsewhere::GREET, &"Ada".to_owned(), Start::new()).await.unwrap();
    assert_eq!(handle.result().await.unwrap(), "Hello Ada");
    let _: Workflow<Tick, i64> = EACH_SECOND;
    let ticks = Filter { names: vec!["each_second".to_owned()], ..Filter::default() };
    let fired = async {
        while engine.list(&ticks).await.unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), fired).await.unwrap();
    engine.shutdown(Duration::from_secs(5)).await;
    // The function is a function all the same.
    let mut builder = Engine::builder().url("memory:");
    let other = builder.register("another name", double);
    assert_eq!(other.name(), "another name");
}
