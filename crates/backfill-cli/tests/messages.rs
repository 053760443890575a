//! `backfill messages`: a shell script is a consumer.

mod common;

use std::process::Stdio;

use common::support::soon;
use common::{Ran, binary};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

/// A place for messages.
struct Place {
    directory: TempDir,
    url: String,
}

impl Place {
    fn file() -> Self {
        let directory = TempDir::new().expect("a directory");
        Self { directory, url: "sqlite:queue.db".to_owned() }
    }

    #[cfg(feature = "server-tests")]
    async fn server() -> Self {
        let (_, url) = common::support::database().await;
        Self { directory: TempDir::new().expect("a directory"), url }
    }

    async fn run(&self, args: &[&str]) -> Ran {
        let mut command = binary(self.directory.path());
        command.arg("messages").args(args).env("DATABASE_URL", &self.url);
        soon("the binary ends", command.output()).await.expect("it runs").into()
    }

    /// Takes one, and answers its handle and its body.
    async fn take(&self, args: &[&str]) -> (String, String) {
        let line = self.run(&[&["take"], args].concat()).await.ok();
        let (handle, body) = line.trim_end().split_once('\t').unwrap_or_else(|| panic!("{line:?}"));
        (handle.to_owned(), body.to_owned())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_goes_its_way_in_a_file() {
    goes_its_way(&Place::file()).await;
}

#[cfg(feature = "server-tests")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_goes_its_way_in_a_schema() {
    goes_its_way(&Place::server().await).await;
}

async fn goes_its_way(place: &Place) {
    // What is missing is created.
    assert_eq!(place.run(&["send", "emails", r#"{"to": "Ada"}"#, "--id", "order 17"]).await.ok(), "order 17\n");
    let again = place.run(&["send", "emails", "1", "--id", "order 17"]).await;
    assert_eq!(again.status, Some(3), "a script can tell it from a failure");
    assert!(again.err.contains("was added before"), "{}", again.err);
    place.run(&["send", "emails", "plain text", "--text", "--in", "1h"]).await.ok();
    let counts = place.run(&["counts", "emails", "--json"]).await.json();
    assert_eq!(counts, json!([{ "queue": "emails", "ready": 1, "delayed": 1, "held": 0, "exact": true }]));
    let (handle, body) = place.take(&["emails", "--lease", "10m"]).await;
    assert_eq!(body, r#"{"to": "Ada"}"#);
    assert_eq!(place.run(&["take", "emails"]).await.ok(), "", "nothing else is ready");
    assert_eq!(place.run(&["renew", &handle, "--lease", "20m"]).await.ok(), "renewed order 17\n");
    let shown = place.run(&["show", "order 17", "--json"]).await.json();
    assert_eq!((shown[0]["state"].as_str(), shown[0]["attempts"].as_i64()), (Some("running"), Some(1)));
    // Where it stood, and known as claimed before.
    assert_eq!(place.run(&["nack", &handle]).await.ok(), "gave back order 17\n");
    let lost = place.run(&["nack", &handle]).await;
    assert_eq!((lost.status, lost.out.as_str()), (Some(4), ""));
    assert!(lost.err.contains("does not stand"), "{}", lost.err);
    let taken = place.run(&["take", "emails", "--json"]).await.json();
    assert_eq!((&taken[0]["attempts"], &taken[0]["body"]), (&json!(2), &json!({ "to": "Ada" })));
    let handle = taken[0]["handle"].as_str().expect("a handle").to_owned();
    // Twice is once, with its event.
    for _ in 0..2 {
        assert_eq!(place.run(&["ack", &handle, "--event", "sent={\"order\":17}"]).await.ok(), "completed order 17\n");
    }
    let events = place.run(&["events", "sent", "--json"]).await.json();
    assert_eq!(events.as_array().map(Vec::len), Some(1));
    assert_eq!(events[0]["payload"], json!({ "order": 17 }));
    let since = events[0]["position"].to_string();
    assert_eq!(place.run(&["events", "sent", "--since", &since]).await.ok(), "");
    assert!(place.run(&["show", "order 17"]).await.ok().contains("completed"));
    place.run(&["send", "emails", "[]"]).await.ok();
    let (handle, _) = place.take(&["emails"]).await;
    assert!(place.run(&["nack", &handle, "--fail", "no such address"]).await.ok().starts_with("failed "));
    let id = handle.rsplit('/').next().expect("an id");
    assert!(place.run(&["show", id]).await.ok().contains("no such address"));
    assert_eq!(place.run(&["purge", "emails", "--all"]).await.ok(), "deleted 1 message\n");
    // Its id is free again.
    place.run(&["send", "emails", "2", "--id", "x"]).await.ok();
    place.run(&["purge", "emails"]).await.ok();
    place.run(&["send", "emails", "3", "--id", "x"]).await.ok();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_switches_a_host_off_and_on() {
    let place = Place::file();
    place.run(&["send", "q", "1"]).await.ok();
    assert_eq!(place.run(&["control"]).await.ok(), "nothing is switched off\n");
    assert_eq!(place.run(&["heartbeat", "w1", "q", "--host", "h1", "--info", "model 7"]).await.ok(), "on\n");
    place.run(&["control", "off", "h1", "q", "--by", "Grace"]).await.ok();
    let off = place.run(&["control", "--json"]).await.json();
    assert_eq!((off[0]["host"].as_str(), off[0]["by"].as_str()), (Some("h1"), Some("Grace")));
    assert_eq!(place.run(&["take", "q", "--host", "h1"]).await.ok(), "");
    assert_eq!(place.run(&["heartbeat", "w1", "q", "--host", "h1", "--info", "model 7"]).await.ok(), "off\n");
    let workers = place.run(&["workers", "q"]).await.ok();
    assert!(workers.contains("w1") && workers.contains("model 7"), "{workers}");
    place.run(&["control", "on", "h1", "q"]).await.ok();
    assert_eq!(place.take(&["q", "--host", "h1"]).await.1, "1");
}

/// A message that comes while somebody waits; and a time that passes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_take_waits_for_what_comes() {
    let place = Place::file();
    assert_eq!(place.run(&["take", "q", "--wait", "100ms"]).await.ok(), "");
    let mut command = binary(place.directory.path());
    command.args(["messages", "take", "q", "--wait", "1m"]).env("DATABASE_URL", &place.url);
    let waiting = command.stdout(Stdio::piped()).kill_on_drop(true).spawn().expect("it runs");
    place.run(&["send", "q", "7"]).await.ok();
    let took = soon("it is woken", waiting.wait_with_output()).await.expect("it ran");
    assert!(String::from_utf8_lossy(&took.stdout).ends_with("\t7\n"), "{took:?}");
}

/// Namespaces are any strings; a dropped one is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn namespaces_are_apart() {
    let place = Place::file();
    for namespace in ["a", "a:q", "-", "ü%"] {
        let namespace = format!("--namespace={namespace}");
        place.run(&[&namespace, "send", "q", "1", "--id", "m"]).await.ok();
        place.run(&[&namespace, "show", "m"]).await.ok();
    }
    assert_eq!(place.run(&["-n", "a", "drop"]).await.status, Some(2), "without --yes");
    place.run(&["-n", "a", "drop", "--yes"]).await.ok();
    let gone = place.run(&["-n", "a", "show", "m"]).await;
    assert_eq!((gone.status, gone.err.contains("no message has the id \"m\"")), (Some(1), true), "{}", gone.err);
    place.run(&["-n", "a:q", "show", "m"]).await.ok();
}

/// Who only looks creates nothing, and is told what to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_looks_creates_nothing() {
    let place = Place::file();
    for args in [&["show", "m"][..], &["counts", "q"], &["events", "s"], &["control"], &["workers", "q"]] {
        let ran = place.run(args).await;
        assert_eq!(ran.status, Some(1), "{args:?}: {}", ran.err);
        assert!(ran.err.contains("backfill"), "{args:?}: {}", ran.err);
        assert!(!place.directory.path().join("queue.db").exists(), "{args:?}");
    }
}

/// A handle says whose it is: another namespace's message of the same id is another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handle_of_another_namespace_is_refused() {
    let place = Place::file();
    place.run(&["-n", "a", "send", "q", "1", "--id", "m"]).await.ok();
    let (handle, _) = place.take(&["q", "-n", "a"]).await;
    let ran = place.run(&["-n", "b", "ack", &handle]).await;
    assert_eq!(ran.status, Some(2));
    assert!(ran.err.contains("namespace"), "{}", ran.err);
    place.run(&["-n", "a", "ack", &handle]).await.ok();
}

/// JSON stays the JSON that was sent, on one line; a text has nothing that a terminal obeys.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_is_printed_as_one_line_of_json() {
    let place = Place::file();
    // A newline between tokens, an escape of a terminal raw in a string, a number that no machine counts to.
    let body = "{\"a\":\n [1e400, \"\u{9b}31m\\\"x\"]}";
    place.run(&["send", "q", body]).await.ok();
    let (handle, printed) = place.take(&["q"]).await;
    assert_eq!(printed, r#"{"a": [1e400, "\u009b31m\"x"]}"#);
    place.run(&["nack", &handle]).await.ok();
    let taken = place.run(&["take", "q", "--json"]).await.ok();
    assert!(taken.contains("1e400"), "{taken}");
    place.run(&["send", "q", "one\ttwo\nthree \u{1b}[31m", "--text"]).await.ok();
    let (handle, printed) = place.take(&["q"]).await;
    assert_eq!(printed, r#""one\ttwo\nthree \u001b[31m""#);
    place.run(&["nack", &handle]).await.ok();
    let (_, printed) = place.take(&["q", "--text"]).await;
    assert!(printed.starts_with("one two three ") && !printed.contains('\u{1b}'), "{printed:?}");
}

/// What nobody could read is ready again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_could_not_be_printed_is_given_back() {
    let place = Place::file();
    place.run(&["send", "q", "1", "--id", "m"]).await.ok();
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut command = binary(place.directory.path());
    command.args(["messages", "take", "q"]).env("DATABASE_URL", &place.url);
    let child = command.stdout(writer).stderr(Stdio::piped()).kill_on_drop(true).spawn().expect("it runs");
    let ran: Ran = soon("it ends", child.wait_with_output()).await.expect("it ran").into();
    assert_eq!(ran.status, Some(1), "{}", ran.err);
    assert!(ran.err.contains("given back"), "{}", ran.err);
    assert_eq!(place.take(&["q"]).await.1, "1");
}

/// Usage errors have status 2, and say what to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mistakes_are_told_with_what_to_do() {
    let place = Place::file();
    let mistakes: [(&[&str], &str); 4] = [
        (&["send", "q", "{bad"], "--text"),
        (&["ack", "nonsense"], "use what a claim answered"),
        (&["ack", "1-1-00000000/ns/q/m", "--event", "sent"], "it looks like"),
        (&["take", "q", "--lease", "31d"], "30 days"),
    ];
    for (args, told) in mistakes {
        let ran = place.run(args).await;
        assert_eq!(ran.status, Some(2), "{args:?}: {}", ran.err);
        assert!(ran.err.contains(told), "{args:?}: {}", ran.err);
    }
}

/// The program of the help: a loop of a shell, with jq nowhere in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shell_script_is_a_consumer() {
    let place = Place::file();
    for n in ["1", "2", "3"] {
        place.run(&["send", "q", n, "--id", &format!("m {n}")]).await.ok();
    }
    let script = r#"
      while line=$("$0" messages take q --wait 1s) && [ -n "$line" ]; do
        printf '%s\n' "$line" | while IFS="$(printf '\t')" read -r handle body; do
          if [ "$body" != 2 ]; then "$0" messages ack "$handle" --event "done=$body"
          else "$0" messages nack "$handle" --fail "it is two"; fi
        done
      done"#;
    let mut command = Command::new("sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_backfill")]).current_dir(place.directory.path());
    command.env("DATABASE_URL", &place.url).kill_on_drop(true);
    let ran: Ran = soon("it ends", command.output()).await.expect("it runs").into();
    assert_eq!(ran.ok(), "completed m 1\nfailed m 2\ncompleted m 3\n");
    let events = place.run(&["events", "done", "--json"]).await.json();
    let bodies: Vec<&Value> = events.as_array().expect("a list").iter().map(|event| &event["payload"]).collect();
    assert_eq!(bodies, [&json!(1), &json!(3)]);
}
