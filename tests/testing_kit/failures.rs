//! The texts of failing assertions.

use backfill::JobSpec;
use backfill::testing::{TestQueue, job, job_named, within};
use futures::FutureExt;
use serde_json::json;

use crate::{SendInvoice, Welcome, panic_in, panic_of, place_order, welcome};

async fn queue() -> TestQueue {
    let queue = TestQueue::memory();
    let jobs = queue.client();
    place_order(&jobs, 17).await.expect("order");
    jobs.add(welcome("eve@example.com")).serial_queue("post").await.expect("add");
    jobs.add(welcome("ada@example.com")).serial_queue("mail").key("welcome 8").await.expect("add");
    queue
}

const LIST: &str = r#"4 jobs are queued:
  job 1: send_invoice {"order":17}, scheduled in 1h
  job 2: charge_card 17, ready, queue "bank", key "charge 17"
  job 3: welcome {"to":"eve@example.com"}, ready, queue "post"
  job 4: welcome {"to":"ada@example.com"}, ready, queue "mail", key "welcome 8"
"#;

#[tokio::test]
async fn the_nearest_job_is_named_with_each_field_that_differs() {
    let jobs = queue().await.jobs().await;
    let wanted = job::<Welcome>()
        .payload_has(json!({ "to": "ada@example.com" }))
        .queue("mail")
        .key("welcome 7")
        .due_in(within("1h", "5s"));
    let text = panic_of(|| jobs.one(wanted));
    let expected = r#"expected one job, and there is none
  task "welcome", payload has {"to":"ada@example.com"}, queue "mail", key "welcome 7", due in 1h ± 5s

the nearest is job 4, which differs in:
  key: it is "welcome 8", and should be "welcome 7"
  due: it is now, and should be in 1h ± 5s

"#;
    assert_eq!(text, format!("{expected}{LIST}"));
}

#[tokio::test]
async fn a_payload_differs_at_a_path() {
    let jobs = queue().await.jobs().await;
    let text = panic_of(|| jobs.one(job_named("send_invoice").payload_is(json!({ "order": 18 }))));
    assert!(text.contains(r#"payload: it is {"order":17}, and should be {"order":18}"#), "{text}");
    let text = panic_of(|| jobs.one(job_named("send_invoice").payload_has(json!({ "order": 18 }))));
    assert!(text.contains("payload: `.order` is 17, and should be 18"), "{text}");
    let text = panic_of(|| jobs.one(job::<SendInvoice>().payload_with(|invoice| invoice.order > 17)));
    assert!(text.contains(r#"payload: {"order":17} does not fit"#), "{text}");
}

#[tokio::test]
async fn a_task_that_no_job_has_is_compared_by_its_name() {
    let jobs = queue().await.jobs().await;
    let text = panic_of(|| jobs.one(job_named("send_invoices")));
    let expected = r#"expected one job, and there is none
  task "send_invoices"

no job is of this task; did you mean "send_invoice"?

"#;
    assert_eq!(text, format!("{expected}{LIST}"));
    let text = panic_of(|| TestQueue::memory().jobs().now_or_never().expect("memory").one(job_named("x")));
    assert_eq!(text, "expected one job, and there is none\n  task \"x\"\n\nno jobs are queued\n");
}

#[tokio::test]
async fn too_many_jobs_are_listed() {
    let jobs = queue().await.jobs().await;
    let text = panic_of(|| jobs.one(job::<Welcome>()));
    let expected = r#"expected one job, and there are 2
  task "welcome"

these match:
  job 3: welcome {"to":"eve@example.com"}, ready, queue "post"
  job 4: welcome {"to":"ada@example.com"}, ready, queue "mail", key "welcome 8"
"#;
    assert_eq!(text, expected);
    let text = panic_of(|| jobs.none(job_named("charge_card")));
    assert!(
        text.starts_with("expected no job, and there is one\n  task \"charge_card\"\n\nthese match:\n  job 2: "),
        "{text}"
    );
    let text = panic_of(|| jobs.count(job::<Welcome>(), 3));
    assert!(text.starts_with("expected 3 jobs, and there are 2\n"), "{text}");
}

#[tokio::test]
async fn a_long_list_is_cut_and_so_is_a_long_payload() {
    let queue = TestQueue::memory();
    queue.client().add_many((0..25).map(|n| JobSpec::new("t", format!("{n}{}", "x".repeat(500))))).await.expect("add");
    let text = panic_of(|| queue.jobs().now_or_never().expect("memory").assert_empty());
    assert!(text.contains("25 jobs are queued:") && text.contains("  … and 5 more\n"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() < 240), "{text}");
}

#[tokio::test]
async fn what_is_waited_for_in_vain_is_told_with_the_place_of_the_call() {
    let queue = TestQueue::memory();
    let line = line!() + 1;
    let text = panic_in(async { queue.wait_for(job_named("t"), "0s").await }).await;
    let place = format!("waited for 0s at tests/testing_kit/failures.rs:{line}:");
    assert!(text.starts_with(&place) && text.contains("expected one job, and there is none"), "{text}");
    queue.client().add(JobSpec::new("t", 1)).await.expect("add");
    let text = panic_in(queue.wait_for_none(job_named("t"), "0s")).await;
    assert!(text.contains("expected no job, and there is one"), "{text}");
    let text = panic_in(queue.assert_no_jobs_left()).await;
    assert!(text.starts_with("jobs are left at tests/testing_kit/failures.rs:"), "{text}");
}

/// A failing assertion is reported where the test calls it.
#[test]
fn the_place_of_a_failing_assertion_is_the_test() {
    use std::sync::{Arc, Mutex};
    let queue = TestQueue::memory();
    let jobs = queue.jobs().now_or_never().expect("memory");
    let places: Arc<Mutex<Vec<String>>> = Arc::default();
    let (seen, before) = (Arc::clone(&places), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |panic| {
        let place = panic.location().map(|place| format!("{}:{}", place.file(), place.line()));
        // Other tests may fail meanwhile.
        if std::thread::current().name().is_some_and(|name| name.contains("the_place_of_a_failing")) {
            seen.lock().expect("lock").extend(place);
        }
    }));
    let line = line!() + 1;
    panic_of(|| jobs.one(job_named("t")));
    panic_of(|| jobs.count(job_named("t"), 2));
    std::panic::set_hook(before);
    let file = "tests/testing_kit/failures.rs";
    assert_eq!(*places.lock().expect("lock"), [format!("{file}:{line}"), format!("{file}:{}", line + 1)]);
}
