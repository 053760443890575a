//! `backfill workflow`: what a person sees of workflows, and does with them.
#![allow(clippy::unwrap_used, reason = "what fails here is a failed test")]

mod common;

use std::time::Duration;

use backfill_workflow::{Ctx, Engine, Failure, Queue, Schedule, Start, Tick};
use common::support::soon;
use common::{Ran, binary};
use serde_json::Value;
use tempfile::TempDir;

struct Place {
    directory: TempDir,
    url: String,
}

impl Place {
    fn file() -> Self {
        let directory = TempDir::new().expect("a directory");
        let url = format!("sqlite://{}", directory.path().join("workflows.db").display());
        Self { directory, url }
    }

    #[cfg(feature = "server-tests")]
    async fn server() -> Self {
        let (_, url) = common::support::database().await;
        Self { directory: TempDir::new().expect("a directory"), url }
    }

    async fn run(&self, args: &[&str]) -> Ran {
        let mut command = binary(self.directory.path());
        command.arg("workflow").args(args).env("DATABASE_URL", &self.url);
        soon("the binary ends", command.output()).await.expect("it runs").into()
    }

    /// A run that ends with this status, and says why.
    async fn refused(&self, status: i32, args: &[&str]) -> String {
        let ran = self.run(args).await;
        assert_eq!(ran.status, Some(status), "{}{}", ran.out, ran.err);
        ran.err
    }

    async fn json(&self, args: &[&str]) -> Value {
        let text = self.run(&[args, &["--json"]].concat()).await.ok();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }
}

async fn workflows_are_seen_and_steered(place: Place) {
    let refused = place.refused(1, &["list"]).await;
    assert!(refused.contains("no file") || refused.contains("backfill workflow migrate"), "{refused}");
    place.run(&["migrate"]).await.ok();
    assert_eq!(place.run(&["list"]).await.ok().trim(), "no workflows");
    let mut builder = Engine::builder().url(&place.url).version("v1").queue(Queue::new("orders").concurrency(3));
    let stock = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stocked = std::sync::Arc::clone(&stock);
    let order = builder.register("order", move |ctx: Ctx, article: String| {
        let stock = std::sync::Arc::clone(&stocked);
        async move {
            ctx.step("charge", || async { Ok(49) }).await?;
            ctx.set_event("state", "charged").await?;
            ctx.recv::<String>("go", Duration::from_secs(60)).await?;
            let ship = || async {
                let stock = stock.load(std::sync::atomic::Ordering::Relaxed);
                if stock { Ok(()) } else { Err(Failure::new("NoStock", "there is no stock")) }
            };
            ctx.step("ship", ship).await?;
            Ok::<_, Failure>(article)
        }
    });
    let ticks = builder.register("tick", |_: Ctx, _: Tick| async { Ok::<_, Failure>(()) });
    let engine = builder.schedule(Schedule::new("nightly", ticks, "0 0 3 * * *")).launch().await.unwrap();

    let id = place.run(&["start", "order", "\"a book\"", "--id", "order-1", "--queue", "orders"]).await.ok();
    assert_eq!(id.trim(), "order-1");
    assert_eq!(
        engine.get_event::<String>("order-1", "state", Duration::from_secs(20)).await.unwrap().unwrap(),
        "charged"
    );
    let shown = place.run(&["show", "order-1"]).await.ok();
    for text in ["pending", "order-1", "orders", "charge", "━", "event state = \"charged\"", "v1"] {
        assert!(shown.contains(text), "{text}: {shown}");
    }
    place.run(&["send-to", "order-1", "\"now\"", "--topic", "go"]).await.ok();
    soon("the failure", engine.handle(order, "order-1").result()).await.unwrap_err();
    let listed = place.run(&["list", "--status", "error", "--name", "order"]).await.ok();
    assert!(listed.contains("order-1") && listed.contains("NoStock: there is no stock"), "{listed}");
    let steps = place.json(&["steps", "order-1"]).await;
    assert_eq!(steps.as_array().unwrap().last().unwrap()["name"], "ship");
    assert_eq!(place.json(&["show", "order-1"]).await["workflow"]["status"], "ERROR");

    // Its queue waits, so that it has not ended when it is cancelled.
    engine.pause(true);
    let fork = place.run(&["fork", "order-1", "--last-failure", "--new-id", "order-2"]).await.ok();
    assert_eq!(fork.trim(), "order-2");
    assert_eq!(place.run(&["cancel", "order-2"]).await.ok().trim(), "cancelled order-2");
    stock.store(true, std::sync::atomic::Ordering::Relaxed);
    engine.pause(false);
    let refused = place.refused(1, &["cancel", "order-2", "nobody"]).await;
    assert!(refused.contains("not cancelled") && refused.contains("nobody"), "{refused}");
    assert_eq!(place.run(&["resume", "order-2"]).await.ok().trim(), "resumed order-2");
    assert_eq!(soon("the fork", engine.handle(order, "order-2").result()).await.unwrap(), "a book");

    assert!(place.run(&["queues"]).await.ok().contains("orders"));
    assert_eq!(place.json(&["queues"]).await[0]["settings"]["concurrency"], 3);
    let versions = place.run(&["versions"]).await.ok();
    assert!(versions.contains("v1") && versions.contains("latest"), "{versions}");
    assert!(place.run(&["schedules"]).await.ok().contains("0 0 3 * * *"));
    assert_eq!(place.run(&["schedules", "pause", "nightly"]).await.ok().trim(), "paused nightly");
    assert!(place.run(&["schedules"]).await.ok().contains("paused"));
    assert!(place.run(&["schedules", "trigger", "nightly"]).await.ok().starts_with("sched-nightly-trigger-"));
    let window = ["--from", "2026-01-01T00:00:00Z", "--until", "2026-01-03T00:00:00Z"];
    let made_up = place.run(&[&["schedules", "backfill", "nightly"][..], &window].concat()).await.ok();
    assert_eq!(made_up.lines().count(), 2, "{made_up}");
    assert!(place.refused(1, &["schedules", "pause", "nobody"]).await.contains("no schedule"));

    assert!(place.refused(2, &["start", "order", "no json"]).await.contains("no JSON"));
    assert!(place.refused(1, &["show", "nobody"]).await.contains("no workflow"));
    assert_eq!(place.run(&["gc", "--older-than", "1h"]).await.ok().trim(), "deleted 0 workflows");
    let deleted = place.json(&["delete", "order-1"]).await;
    assert_eq!(deleted["deleted"][0], "order-1");
    let start = Start::new().id("order-3");
    engine.start(order, &"x".to_owned(), start).await.unwrap();
    place.run(&["cancel", "order-3", "--children"]).await.ok();
    engine.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workflows_in_a_file_are_seen_and_steered() {
    workflows_are_seen_and_steered(Place::file()).await;
}

#[cfg(feature = "server-tests")]
#[tokio::test(flavor = "multi_thread")]
async fn workflows_in_postgresql_are_seen_and_steered() {
    workflows_are_seen_and_steered(Place::server().await).await;
}
