//! Real processes that are killed at each of their writes, and a server that is killed again and again.
#![allow(clippy::unwrap_used, reason = "what fails here is a failed test")]

mod killed;
#[path = "../../../../tests/support/mod.rs"]
mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use backfill_workflow::{Ctx, Engine, Failure, Filter, Queue, Start, Status};
use sqlx::postgres::PgPoolOptions;
use support::server::Server;

/// How long the server is killed and started. `BACKFILL_FAULTS_FULL` asks for the two minutes of a whole run.
fn length() -> Duration {
    Duration::from_secs(if std::env::var_os("BACKFILL_FAULTS_FULL").is_some() { 120 } else { 15 })
}

/// Workflows of all kinds under a server that is killed at random. With `cancels`, some are cancelled meanwhile.
async fn chaos(cancels: bool) {
    let server = Server::start(&["max_connections=60"]).await;
    let url = server.url("postgres", "postgres");
    let pool =
        PgPoolOptions::new().max_connections(10).acquire_timeout(Duration::from_secs(5)).connect(&url).await.unwrap();
    let mut builder = Engine::builder()
        .postgres(pool)
        .version("v1")
        .queue(Queue::new("q").worker_concurrency(5))
        .lease(Duration::from_secs(3))
        .poll_interval(Duration::from_millis(300));
    let steps = builder.register("steps", |ctx: Ctx, count: u32| async move {
        let mut sum = 0;
        for number in 0..count {
            sum += ctx.step("add", || async { Ok(number) }).await?;
            ctx.sleep(Duration::from_millis(60)).await?;
        }
        Ok::<_, Failure>(sum)
    });
    let talks = builder.register("talks", |ctx: Ctx, count: u32| async move {
        let mut sum = 0;
        for _ in 0..count {
            sum += ctx.recv::<u32>("t", Duration::from_secs(600)).await?.unwrap_or(1000);
            ctx.set_event("sum", &sum).await?;
        }
        Ok::<_, Failure>(sum)
    });
    let sends = builder.register("sends", |ctx: Ctx, (to, count): (String, u32)| async move {
        for number in 0..count {
            ctx.send(&to, "t", &number).await?;
            ctx.sleep(Duration::from_millis(50)).await?;
        }
        let last = count * (count - 1) / 2;
        loop {
            let seen = ctx.get_event::<u32>(&to, "sum", Duration::from_millis(300)).await?;
            if seen == Some(last) {
                return Ok::<_, Failure>(last);
            }
        }
    });
    let engine = Arc::new(builder.launch().await.unwrap());
    let begun = Instant::now();
    let until = begun + length();
    let rounds = u32::try_from(length().as_millis() / 150).unwrap();
    let mut handles = Vec::new();
    for number in 0..12 {
        let queue = Start::new().queue("q");
        handles.push((engine.start(steps, &rounds, Start::new().id(format!("s{number}"))).await.unwrap(), rounds));
        handles.push((engine.start(steps, &20, queue.id(format!("q{number}"))).await.unwrap(), 20));
        let talk = engine.start(talks, &rounds, Start::new().id(format!("t{number}"))).await.unwrap();
        handles.push((
            engine.start(sends, &(talk.id().to_owned(), rounds), Start::new().id(format!("m{number}"))).await.unwrap(),
            rounds,
        ));
        handles.push((talk, rounds));
    }
    let canceller = Arc::clone(&engine);
    let cancelling = async {
        let mut cancelled = Vec::new();
        for number in 0..12 {
            // Those that steps or talks alone: a sender whose listener is gone would wait for ever.
            let id = format!("{}{number}", if number % 2 == 0 { "s" } else { "q" });
            tokio::time::sleep(length() / 16).await;
            if cancels && let Ok(ids) = canceller.cancel([id]).await {
                cancelled.extend(ids);
            }
        }
        cancelled
    };
    let killing = async {
        let mut kills = 0;
        while Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(fastrand::u64(800..3000))).await;
            server.stop_at_once().await;
            tokio::time::sleep(Duration::from_millis(fastrand::u64(0..1500))).await;
            server.start_again().await;
            kills += 1;
        }
        kills
    };
    let (cancelled, kills) = tokio::join!(cancelling, killing);
    assert!(kills >= 2, "{kills}");
    for (handle, count) in &handles {
        let result = tokio::time::timeout(Duration::from_secs(120), handle.result()).await.expect("it ends");
        if cancelled.iter().any(|id| id == handle.id()) {
            assert!(result.is_err(), "{} was cancelled", handle.id());
        } else {
            // A cancellation whose answer was lost is one all the same.
            match result {
                Ok(sum) => assert_eq!(sum, count * (count - 1) / 2, "{}", handle.id()),
                Err(failure) => assert!(cancels && failure.name() == "Cancelled", "{}: {failure:?}", handle.id()),
            }
        }
    }
    let runs = engine.list(&Filter::default()).await.unwrap();
    for run in &runs {
        let was_cancelled = cancelled.contains(&run.id);
        assert!(run.status == Status::Success || cancels && run.status == Status::Cancelled, "{run:?}");
        assert!(!was_cancelled || run.status == Status::Cancelled, "no cancelled workflow succeeds: {}", run.id);
    }
    assert_eq!(runs.len(), 48);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_at_random_fails_no_workflow() {
    chaos(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_cancelled_workflow_succeeds_while_the_server_is_killed() {
    chaos(true).await;
}
