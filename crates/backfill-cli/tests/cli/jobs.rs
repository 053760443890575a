//! Adding, showing, changing and deleting jobs.

use serde_json::{Value, json};

use crate::common::Scene;

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::too_many_lines, reason = "one life of a job")]
async fn a_job_is_added_listed_shown_changed_and_deleted() {
    let scene = Scene::empty().await;
    // The first add creates the schema.
    assert_eq!(scene.run(&["add", "mail", r#"{"to": "ada", "n": 1.0}"#]).await.ok(), "added job 1\n");
    let added = scene
        .run(&[
            "--json",
            "add",
            "mail",
            "[1]",
            "--queue",
            "q",
            "--in",
            "1h",
            "--max-attempts",
            "3",
            "--key",
            "k",
            "--key-mode",
            "preserve_run_at",
            "--priority",
            "-5",
            "--flag",
            "b",
            "--flag",
            "a",
        ])
        .await
        .json();
    for (name, value) in [
        ("id", json!(2)),
        ("task", json!("mail")),
        ("state", json!("scheduled")),
        ("queue", json!("q")),
        ("payload", json!([1])),
        ("max_attempts", json!(3)),
        ("key", json!("k")),
        ("priority", json!(-5)),
        ("flags", json!(["a", "b"])),
        ("attempts", json!(0)),
        ("last_error", Value::Null),
    ] {
        assert_eq!(added[name], value, "{name}");
    }
    assert_eq!(scene.run(&["add", "mail", "[2]", "--key", "k"]).await.ok(), "updated job 2\n");
    let other =
        scene.run(&["--json", "add", "other", "--run-at", "2000-01-01T00:00:00Z"]).await.json()["id"].to_string();

    let listed = scene.run(&["jobs"]).await.ok();
    assert!(listed.starts_with("ID  TASK   STATE"), "{listed}");
    assert_eq!(listed.lines().count(), 4);
    assert_eq!(
        scene.run(&["jobs", "--json", "--task", "mail", "--state", "ready"]).await.json().as_array().map(Vec::len),
        Some(2)
    );
    assert_eq!(scene.run(&["jobs", "--json", "--key", "k"]).await.json()[0]["payload"], json!([1, 2]));
    let page = scene.run(&["jobs", "--limit", "1", "--after", "1"]).await;
    assert!(page.err.contains("there are more; go on with --after 2"), "{}", page.err);
    assert_eq!(page.ok().lines().count(), 2);

    let shown = scene.run(&["job", "1"]).await.ok();
    assert!(
        shown.contains("task        mail\n")
            && shown.contains("payload\n  {\n    \"to\": \"ada\",\n    \"n\": 1.0\n  }"),
        "{shown}"
    );

    assert_eq!(scene.run(&["discard", "1", "--reason", "no need"]).await.ok(), "discarded 1\n");
    assert_eq!(scene.run(&["job", "1", "--json"]).await.json()["last_error"], "no need");
    assert_eq!(scene.run(&["jobs", "--json", "--state", "dead"]).await.json()[0]["id"], 1);
    assert_eq!(scene.run(&["run-now", "1"]).await.ok(), "rescheduled 1\n");
    let revived = scene.run(&["job", "1", "--json"]).await.json();
    assert_eq!((&revived["attempts"], &revived["max_attempts"]), (&json!(0), &json!(25)));
    assert_eq!(
        scene
            .run(&[
                "reschedule",
                "1",
                &other,
                "--in",
                "2h",
                "--priority",
                "0",
                "--attempts",
                "2",
                "--max-attempts",
                "9"
            ])
            .await
            .ok(),
        format!("rescheduled 1, {other}\n")
    );
    let changed = scene.run(&["job", &other, "--json"]).await.json();
    assert_eq!(
        (&changed["state"], &changed["attempts"], &changed["max_attempts"]),
        (&json!("scheduled"), &json!(2), &json!(9))
    );
    assert_eq!(scene.run(&["remove", "k"]).await.ok(), "removed job 2\n");
    let completed = scene.run(&["complete", "1", "77"]).await;
    assert_eq!(
        (completed.status, completed.out.as_str()),
        (Some(1), "completed 1\nleft 77 alone: there is no such job\n")
    );
    let rest = scene.run(&["complete", &other, "--json"]).await.json();
    assert_eq!((&rest["changed"][0]["id"].to_string(), &rest["unchanged"]), (&other, &json!([])));
    assert_eq!(scene.run(&["jobs"]).await.ok(), "no jobs\n");
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attempts_that_no_job_may_have_are_refused() {
    let scene = Scene::new().await;
    scene.run(&["add", "t"]).await.ok();
    for args in ["--attempts=-5", "--attempts=-32768", "--max-attempts=0", "--max-attempts=-1", "--attempts=32768"] {
        let refused = scene.run(&["reschedule", "1", args]).await;
        assert_eq!(refused.status, Some(2), "{args}: {}", refused.err);
    }
    let refused = scene.run(&["reschedule", "1", "--in", "200years"]).await;
    assert!(refused.status == Some(2) && refused.err.contains("hundred years"), "{}", refused.err);
    scene.run(&["reschedule", "1", "--attempts", "0", "--max-attempts", "1"]).await.ok();
}
