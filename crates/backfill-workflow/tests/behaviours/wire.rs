//! What stands in the tables.

use std::time::Duration;

use backfill_workflow::{Ctx, Failure, Filter, Start, Status};

use crate::place::{Place, within};

pub(crate) async fn other_formats_do_not_spoil_lists(place: Place) {
    let mut builder = place.engine().await;
    let workflow = builder.register("numbers", |_: Ctx, number: u32| async move { Ok::<_, Failure>(number) });
    let engine = builder.launch().await.unwrap();
    let handle = engine.start(workflow, &7, Start::new().id("w")).await.unwrap();
    within(handle.result()).await.unwrap();
    // As Python's library writes it by default, and waiting to be run.
    let mut export = engine.export("w").await.unwrap();
    export.run.id = "pickled".into();
    export.run.format = Some("py_pickle".into());
    export.run.input = Some("gASVBQAAAAAAAABLB4WULg==".into());
    export.run.output = Some("gARLBy4=".into());
    engine.import(std::slice::from_ref(&export)).await.unwrap();
    let failure = within(engine.handle(workflow, "pickled").result()).await.unwrap_err();
    assert_eq!(failure.name(), "Decode");
    assert!(failure.to_string().contains("py_pickle"), "{failure}");
    let filter = Filter { load_input: true, load_output: true, ..Filter::default() };
    let runs = engine.list(&filter).await.unwrap();
    assert_eq!(runs.len(), 2);
    // Run here, it is an error that says which format it is in.
    export.run.id = "to be run".into();
    export.run.status = Status::Cancelled;
    engine.import(&[export]).await.unwrap();
    engine.resume(["to be run"], None).await.unwrap();
    let failure = within(engine.handle(workflow, "to be run").result()).await.unwrap_err();
    assert!(failure.to_string().contains("py_pickle"), "{failure}");
}

pub(crate) async fn the_stored_bytes_are_portable(place: Place) {
    let mut builder = place.engine().await;
    let workflow = builder.register("all", |ctx: Ctx, _: (u32, String)| async move {
        ctx.set_event("e", &serde_json::json!({ "a": null })).await?;
        ctx.write_stream("s", &[1.5]).await?;
        ctx.close_stream("s").await?;
        ctx.recv::<String>("", Duration::from_secs(60)).await?;
        Err::<(), _>(Failure::new("NoStock", "none left").code(7).data(&["x"]))
    });
    let engine = builder.launch().await.unwrap();
    let handle = engine.start(workflow, &(1, "ü".to_owned()), Start::new().id("w")).await.unwrap();
    engine.send("w", "", "hi", None).await.unwrap();
    within(handle.result()).await.unwrap_err();
    let export = engine.export("w").await.unwrap();
    let input: serde_json::Value = serde_json::from_str(export.run.input.as_deref().unwrap()).unwrap();
    assert_eq!(input, serde_json::json!({ "positionalArgs": [[1, "ü"]], "namedArgs": {} }));
    assert_eq!(export.run.error.as_deref(), Some(r#"{"name":"NoStock","message":"none left","code":7,"data":["x"]}"#));
    assert_eq!(export.events[0].value.text, r#"{"a":null}"#);
    let stream: Vec<&str> = export.streams.iter().map(|row| row.value.text.as_str()).collect();
    assert_eq!(stream, ["[1.5]", "\"__DBOS_STREAM_CLOSED__\""]);
    let message = &export.messages[0];
    assert_eq!((message.topic.as_deref(), message.body.text.as_str()), (Some("__null__topic__"), "\"hi\""));
    assert_eq!(message.consumed_by, Some(3));
    let formats =
        [&export.run.format, &export.events[0].value.format, &export.streams[1].value.format, &message.body.format];
    assert!(formats.iter().all(|format| format.as_deref() == Some("portable_json")));
}
