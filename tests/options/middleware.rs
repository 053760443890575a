//! What is wrapped around every task.

use std::sync::{Arc, Mutex};

use backfill::{Answer, BackfillClient, JobContext, JobSpec, TaskError, Worker, middleware_fn, task_fn};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn middleware_wraps_every_task_from_the_outside_in_and_can_give_and_refuse() {
    #[derive(Debug, PartialEq)]
    struct User(&'static str);
    let client = BackfillClient::in_memory();
    let log: Arc<Mutex<Vec<String>>> = Arc::default();
    let note = |log: &Arc<Mutex<Vec<String>>>, text: String| log.lock().expect("lock").push(text);
    let (outer, inner, task) = (Arc::clone(&log), Arc::clone(&log), Arc::clone(&log));
    let failing = client.add(JobSpec::new("task", "refuse me")).await.expect("add");
    let panicking = client.add(JobSpec::new("task", "panic")).await.expect("add");
    client.add(JobSpec::new("task", "fine").priority(9)).await.expect("add");
    let summary = Worker::builder(client.clone())
        .task(task_fn("task", move |name: String, ctx: JobContext| {
            note(&task, format!("task {name} for {:?}", ctx.get::<User>().expect("a user")));
            assert!(ctx.get::<String>().is_none());
            async { Ok::<_, TaskError>(Answer::Done) }
        }))
        .middleware(middleware_fn(move |ctx, next| {
            let log = Arc::clone(&outer);
            async move {
                note(&log, format!("before {}", next.task()));
                let result = next.run(ctx.with(User("ada"))).await;
                note(&log, format!("after {}", result.is_ok()));
                result
            }
        }))
        .middleware(middleware_fn(move |ctx, next| {
            let log = Arc::clone(&inner);
            async move {
                let payload: String = ctx.job().payload.decode()?;
                note(&log, format!("inner {payload}"));
                match payload.as_str() {
                    "refuse me" => Err(TaskError::new("not for you").permanent()),
                    "panic" => panic!("middleware broke"),
                    _ => next.run(ctx).await,
                }
            }
        }))
        .concurrency(1)
        .build()
        .expect("worker")
        .run_until_idle()
        .await
        .expect("run");
    assert_eq!((summary.completed, summary.dead, summary.failed), (1, 1, 1));
    let told = log.lock().expect("lock").clone();
    assert_eq!(
        told,
        [
            "before task",
            "inner refuse me",
            "after false",
            "before task",
            "inner panic",
            "before task",
            "inner fine",
            "task fine for User(\"ada\")",
            "after true",
        ]
    );
    let error = |id| {
        let client = client.clone();
        async move { client.job(id).await.expect("read").expect("there").last_error }
    };
    assert_eq!(error(failing.id).await.as_deref(), Some("not for you"));
    assert_eq!(error(panicking.id).await.as_deref(), Some("the task panicked: middleware broke"));
}
