//! Searching jobs, and the admin page on this machine.

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::common::support::soon;
use crate::common::{Ran, Scene};

fn ids(ran: Ran) -> Vec<i64> {
    ran.json().as_array().expect("a list").iter().map(|job| job["id"].as_i64().expect("an id")).collect()
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_are_found_by_what_they_are_and_page_by_page() {
    let scene = Scene::new().await;
    for (task, order, priority) in [("send_mail", 1, "0"), ("send_text", 2, "-5"), ("tidy", 1, "3")] {
        let payload = json!({ "order": order }).to_string();
        scene.run(&["add", task, &payload, "--priority", priority]).await.ok();
    }
    for (search, found) in [
        ("payload.order:1", vec![1, 3]),
        ("task:send_* -payload.order:1", vec![2]),
        ("priority:<0", vec![2]),
        ("tidy", vec![3]),
        ("state:dead", vec![]),
    ] {
        assert_eq!(ids(scene.run(&["jobs", "--json", "--where", search]).await), found, "{search}");
    }
    assert_eq!(ids(scene.run(&["jobs", "--json", "--order", "newest"]).await), [3, 2, 1]);
    assert_eq!(ids(scene.run(&["jobs", "--json", "--order", "claim"]).await), [2, 1, 3]);
    // Options and a search hold together.
    assert_eq!(ids(scene.run(&["jobs", "--json", "--task", "tidy", "--where", "payload.order:1"]).await), [3]);

    for order in ["oldest", "newest", "claim"] {
        let first = scene.run(&["jobs", "--order", order, "--limit", "2"]).await;
        let next = first.err.split("--after ").nth(1).expect("it says how to go on").trim().to_owned();
        assert_eq!(first.ok().lines().count(), 3, "a heading and two jobs");
        let rest = scene.run(&["jobs", "--json", "--order", order, "--after", &next]).await;
        assert_eq!(ids(rest).len(), 1, "{order}");
    }
    let mistyped = scene.run(&["jobs", "--where", "stat:dead"]).await;
    assert_eq!(mistyped.status, Some(2));
    assert!(mistyped.err.contains("did you mean \"state\"?"), "{}", mistyped.err);
    let other = scene.run(&["jobs", "--order", "claim", "--after", "7"]).await;
    assert!(other.status == Some(2) && other.err.contains("is no place in the order"), "{}", other.err);

    let stats = scene.run(&["stats", "--json"]).await.json();
    assert_eq!((&stats["jobs"]["ready"], &stats["precision"]["ready"]), (&json!(3), &json!("exact")));
    assert_eq!(scene.run(&["tasks", "--json", "--exact"]).await.json()[0]["precision"], "exact");
    assert_eq!(scene.run(&["queues", "--json", "--name", "x*", "--limit", "5"]).await.json(), json!([]));
    let built = scene.run(&["migrate", "--indexes", "running,task", "--json"]).await.json();
    assert_eq!(
        (&built["indexes"][1]["index"], &built["indexes"][1]["built"]),
        (&json!("backfill_jobs_task"), &json!(true))
    );
    let told = scene.run(&["migrate", "--indexes"]).await.ok();
    assert!(told.starts_with("there is already the index backfill_jobs_dead: 0 bytes more"), "{told}");
    assert!(scene.run(&["doctor", "--exact"]).await.ok().contains("objects are as they should be"));
}

/// What a server answers.
async fn ask(address: &str, host: &str) -> String {
    let mut stream = soon("it is reached", TcpStream::connect(address)).await.expect("connect");
    let request = format!("GET /overview HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("send");
    let mut answer = String::new();
    soon("it answers", stream.read_to_string(&mut answer)).await.expect("read");
    answer
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_is_for_this_machine_alone_and_ends_when_it_is_told_to() {
    let scene = Scene::new().await;
    scene.run(&["add", "mail"]).await.ok();
    for everywhere in ["0.0.0.0:0", "[::]:0", "192.0.2.1:80"] {
        let refused = scene.run(&["ui", "--listen", everywhere]).await;
        assert_eq!(refused.status, Some(2), "{everywhere}");
        assert!(refused.err.contains("nobody signs in here"), "{}", refused.err);
    }
    assert_eq!(scene.run(&["ui", "--colour", "red"]).await.status, Some(2));

    let mut page =
        scene.command(&["ui", "--json", "--name", "a shop"]).stdout(Stdio::piped()).spawn().expect("it runs");
    let mut lines = BufReader::new(page.stdout.take().expect("its output")).lines();
    let line = soon("it says where it is", lines.next_line()).await.expect("a line").expect("a line");
    let url = serde_json::from_str::<Value>(&line).expect("JSON")["url"].as_str().expect("a URL").to_owned();
    let address = url.trim_start_matches("http://").trim_end_matches('/').to_owned();
    let answer = ask(&address, &address).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("a shop") && answer.contains("mail"), "{answer}");
    assert!(ask(&address, "evil.example").await.starts_with("HTTP/1.1 421"), "no other name leads here");

    let pid = rustix::process::Pid::from_raw(page.id().expect("it runs").try_into().expect("a pid")).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("a signal");
    let ended = soon("it ends", page.wait()).await.expect("an end");
    assert_eq!(ended.code(), Some(0), "as for every command that goes on until then");
}
