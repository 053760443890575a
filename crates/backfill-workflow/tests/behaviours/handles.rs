//! Starting, results, children.

use std::time::Duration;

use backfill_workflow::{Child, Client, Ctx, Error, Failure, ForkFrom, Start, Status, Workflow};
use serde::{Deserialize, Serialize};

use crate::place::{Counter, Place, within};

const COUNTED: Workflow<(), usize> = Workflow::named("counted");

fn counted(builder: &mut backfill_workflow::EngineBuilder, calls: &Counter) -> Workflow<(), usize> {
    let calls = calls.clone();
    builder.register("counted", move |ctx: Ctx, (): ()| {
        let calls = calls.clone();
        async move {
            let call = calls.add();
            ctx.sleep(Duration::from_millis(30)).await?;
            Ok::<_, Failure>(call)
        }
    })
}

pub(crate) async fn one_id_is_one_execution(place: Place) {
    let calls = Counter::new();
    let mut builder = place.engine().await;
    let workflow = counted(&mut builder, &calls);
    let engine = builder.launch().await.unwrap();
    let starts = (0..20).map(|_| engine.start(workflow, &(), Start::new().id("one")));
    let handles = futures::future::try_join_all(starts).await.unwrap();
    for handle in &handles {
        assert_eq!(within(handle.result()).await.unwrap(), 1);
        assert_eq!(within(handle.result()).await.unwrap(), 1, "a result may be awaited again");
    }
    assert_eq!(calls.get(), 1);
}

pub(crate) async fn one_id_is_one_execution_in_two_processes(place: Place) {
    let calls = Counter::new();
    let mut builders = [place.engine().await, place.engine().await];
    for builder in &mut builders {
        counted(builder, &calls);
    }
    let [one, two] = builders;
    let (one, two) = (one.launch().await.unwrap(), two.launch().await.unwrap());
    for number in 0..10 {
        let start = || Start::new().id(format!("w{number}"));
        let (a, b) = tokio::join!(one.start(COUNTED, &(), start()), two.start(COUNTED, &(), start()));
        let (a, b) = (within(a.unwrap().result()).await.unwrap(), within(b.unwrap().result()).await.unwrap());
        assert_eq!(a, b);
    }
    assert_eq!(calls.get(), 10);
}

pub(crate) async fn an_id_of_another_workflow_is_refused(place: Place) {
    let mut builder = place.engine().await;
    let one = builder.register("one", |_: Ctx, (): ()| async { Ok::<_, Failure>(()) });
    let two = builder.register("two", |_: Ctx, (): ()| async { Ok::<_, Failure>(()) });
    let engine = builder.launch().await.unwrap();
    engine.start(one, &(), Start::new().id("w")).await.unwrap();
    let error = engine.start(two, &(), Start::new().id("w")).await.unwrap_err();
    assert!(matches!(error, Error::OtherWorkflow { .. }), "{error}");
}

pub(crate) async fn an_unknown_id_is_said_at_once(place: Place) {
    let client = place.client().await;
    let failure = within(client.handle(COUNTED, "nobody").result()).await.unwrap_err();
    assert!(matches!(failure.engine(), Some(Error::NoWorkflow { .. })), "{failure}");
}

pub(crate) async fn a_deleted_workflow_is_said_to_those_who_wait(place: Place) {
    let mut builder = place.engine().await;
    let began = Counter::new();
    let count = began.clone();
    let workflow = builder.register("waits", move |ctx: Ctx, (): ()| {
        count.add();
        async move { ctx.sleep(Duration::from_secs(3600)).await.map_err(Failure::from) }
    });
    let engine = builder.launch().await.unwrap();
    let handle = engine.start(workflow, &(), Start::new()).await.unwrap();
    began.reaches(1).await;
    let elsewhere = place.client().await;
    let waits = elsewhere.handle(workflow, handle.id());
    let (failure, deleted) = tokio::join!(within(waits.result()), async {
        tokio::task::yield_now().await;
        elsewhere.delete([handle.id()], false).await
    });
    assert_eq!(deleted.unwrap(), [handle.id()]);
    assert!(matches!(failure.unwrap_err().engine(), Some(Error::NoWorkflow { .. })));
}

pub(crate) async fn a_finished_workflow_is_not_begun_again(place: Place) {
    let calls = Counter::new();
    let mut builder = place.engine().await;
    let workflow = counted(&mut builder, &calls);
    let engine = builder.launch().await.unwrap();
    for _ in 0..3 {
        let handle = engine.start(workflow, &(), Start::new().id("w")).await.unwrap();
        assert_eq!(within(handle.result()).await.unwrap(), 1);
    }
    assert_eq!(engine.get("w").await.unwrap().attempts, 1);
}

pub(crate) async fn a_result_is_read_by_any_process(place: Place) {
    let mut builder = place.engine().await;
    let workflow = builder.register("doubles", |_: Ctx, number: i64| async move { Ok::<_, Failure>(number * 2) });
    let engine = builder.launch().await.unwrap();
    let elsewhere = place.client().await;
    // A client without an engine puts it into the engine's own queue.
    let handle = elsewhere.start(Workflow::<i64, i64>::named("doubles"), &21, Start::new()).await.unwrap();
    assert_eq!(within(handle.result()).await.unwrap(), 42);
    let handle = engine.start(workflow, &4, Start::new()).await.unwrap();
    let results = futures::future::join_all(
        (0..5).map(|_| async { within(place.client().await.handle(workflow, handle.id()).result()).await.unwrap() }),
    );
    assert_eq!(results.await, [8; 5]);
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum OrderError {
    NoStock { article: u32 },
    Other(String),
}

impl std::fmt::Display for OrderError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self:?}")
    }
}

impl From<Failure> for OrderError {
    fn from(failure: Failure) -> Self {
        Self::Other(failure.to_string())
    }
}

pub(crate) async fn an_error_of_ones_own_comes_back(place: Place) {
    let mut builder = place.engine().await;
    let workflow =
        builder.register("orders", |_: Ctx, article: u32| async move { Err::<(), _>(OrderError::NoStock { article }) });
    let engine = builder.launch().await.unwrap();
    let handle = engine.start(workflow, &7, Start::new()).await.unwrap();
    assert_eq!(within(handle.result()).await, Err(OrderError::NoStock { article: 7 }));
    let elsewhere: Client = place.client().await;
    assert_eq!(within(elsewhere.handle(workflow, handle.id()).result()).await, Err(OrderError::NoStock { article: 7 }));
    let failure = within(elsewhere.any_handle(handle.id()).result()).await.unwrap_err();
    assert_eq!(failure.name(), "OrderError");
    assert_eq!(handle.status().await.unwrap(), Status::Error);
}

pub(crate) async fn an_unregistered_workflow_is_refused(place: Place) {
    let engine = place.engine().await.launch().await.unwrap();
    let error = engine.start(COUNTED, &(), Start::new()).await.unwrap_err();
    assert!(matches!(error, Error::NotRegistered { .. }), "{error}");
    let mut builder = place.engine().await;
    counted(&mut builder, &Counter::new());
    counted(&mut builder, &Counter::new());
    assert!(matches!(builder.launch().await, Err(Error::RegisteredTwice { .. })));
}

fn families(builder: &mut backfill_workflow::EngineBuilder, children: &Counter) -> Workflow<(), String> {
    let children = children.clone();
    let child = builder.register("child", move |ctx: Ctx, name: String| {
        children.add();
        async move { Ok::<_, Failure>(format!("{name} of {:?} for {:?} {:?}", ctx.id().len(), ctx.user(), ctx.roles())) }
    });
    builder.register("parent", move |ctx: Ctx, (): ()| async move {
        ctx.step("before", || async { Ok(()) }).await?;
        let started: Child<String> = ctx.child(child, &"Ada".to_owned(), Start::new()).await?;
        assert_eq!(started.id(), format!("{}-1", ctx.id()));
        started.result().await
    })
}

pub(crate) async fn a_child_is_started_once(place: Place) {
    let children = Counter::new();
    let mut builder = place.engine().await;
    let parent = families(&mut builder, &children);
    let engine = builder.launch().await.unwrap();
    let handle = engine.start(parent, &(), Start::new().id("p")).await.unwrap();
    let first = within(handle.result()).await.unwrap();
    // Begun again from where it had started the child, and from where it waited.
    let fork = engine.fork(parent, "p", ForkFrom::Step(2), Start::new().id("q")).await;
    assert_eq!(fork.unwrap().id(), "q");
    let steps = engine.steps("p").await.unwrap();
    assert_eq!(steps.iter().map(|step| step.name.as_str()).collect::<Vec<_>>(), ["before", "child", "DBOS.getResult"]);
    assert_eq!(steps[1].child.as_deref(), Some("p-1"));
    assert_eq!(engine.get("p-1").await.unwrap().parent.as_deref(), Some("p"));
    assert_eq!(children.get(), 1);
    assert!(first.starts_with("Ada"));
}

pub(crate) async fn a_childs_result_is_recorded(place: Place) {
    let children = Counter::new();
    let mut builder = place.engine().await;
    let child = builder.register("child", |_: Ctx, (): ()| async { Ok::<_, Failure>(5) });
    let count = children.clone();
    let parent = builder.register("parent", move |ctx: Ctx, (): ()| {
        count.add();
        async move { ctx.child(child, &(), Start::new()).await?.result().await }
    });
    let engine = builder.launch().await.unwrap();
    let handle = engine.start(parent, &(), Start::new().id("p")).await.unwrap();
    assert_eq!(within(handle.result()).await.unwrap(), 5);
    assert_eq!(engine.delete(["p-0"], false).await.unwrap(), ["p-0"]);
    // The export begins as if its process had died before the end.
    let mut export = engine.export("p").await.unwrap();
    engine.delete(["p"], false).await.unwrap();
    export.run.status = Status::Cancelled;
    assert!(engine.import(&[export]).await.unwrap().is_empty());
    engine.resume(["p"], None).await.unwrap();
    assert_eq!(within(handle.client_handle(&engine).result()).await.unwrap(), 5);
    assert_eq!(children.get(), 2, "the parent ran again, without its child");
}

/// The same workflow, read anew from the storage.
trait Anew<O> {
    fn client_handle(&self, client: &Client) -> backfill_workflow::Handle<O>;
}

impl<O> Anew<O> for backfill_workflow::Handle<O> {
    fn client_handle(&self, client: &Client) -> backfill_workflow::Handle<O> {
        client.handle(Workflow::<(), O>::named(""), self.id())
    }
}

pub(crate) async fn a_child_inherits_who_asked(place: Place) {
    let mut builder = place.engine().await;
    let parent = families(&mut builder, &Counter::new());
    let engine = builder.launch().await.unwrap();
    let start = Start::new().id("p").user("ada").role("clerk").roles(["clerk", "admin"]);
    let handle = engine.start(parent, &(), start).await.unwrap();
    assert_eq!(within(handle.result()).await.unwrap(), "Ada of 3 for Some(\"ada\") [\"clerk\", \"admin\"]");
    let run = engine.get("p-1").await.unwrap();
    assert_eq!((run.user.as_deref(), run.role.as_deref()), (Some("ada"), Some("clerk")));
}

pub(crate) async fn an_input_that_cannot_be_read_is_an_error(place: Place) {
    let mut builder = place.engine().await;
    builder.register("numbers", |_: Ctx, number: u8| async move { Ok::<_, Failure>(number) });
    let engine = builder.launch().await.unwrap();
    let wrong = Workflow::<String, u8>::named("numbers");
    let handle = engine.start(wrong, &"seven".to_owned(), Start::new()).await.unwrap();
    let failure = within(handle.result()).await.unwrap_err();
    assert_eq!(failure.name(), "Decode", "{failure}");
}
