//! Listeners that are slow, or gone, or dead without a word; and what is handed off to them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use backfill_core::job::{Job, JobId, JobSpec};
use backfill_core::storage::messages::{Changes, News};
use backfill_core::storage::{
    ClaimRef, ClaimToken, Consumer, Inspect, Offer, Outcome, Settlement, Storage, Wakeup, WorkerId,
};
use backfill_redis::RedisStorage;
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

use crate::redis_scene::{TASK, WITHIN, command, job};
use crate::redis_server::Server;
use crate::{open, worker};

/// A listener that waits for jobs to be handed off, and the worker whose it is.
async fn listening(
    consumer: &Arc<dyn Consumer>,
) -> (Arc<WorkerId>, watch::Sender<Option<Offer>>, BoxStream<'static, Wakeup>) {
    let worker = Arc::new(worker(&**consumer).await);
    let offers = watch::Sender::new(Some(Offer::new(Arc::clone(&worker), [TASK.to_owned()].into(), 1)));
    let mut wakeups = consumer.wakeups(Some(offers.subscribe()));
    let first = tokio::time::timeout(WITHIN, wakeups.next()).await.expect("in time");
    assert_eq!(first, Some(Wakeup::Listening));
    (worker, offers, wakeups)
}

/// Adds until a job is handed off, and the wakeups say so.
async fn until_handed_off(storage: &RedisStorage, wakeups: &mut BoxStream<'static, Wakeup>) -> JobId {
    let begun = std::time::Instant::now();
    loop {
        let added = storage.add(&[job(1)]).await.expect("add").remove(0);
        let heard = tokio::time::timeout(WITHIN, wakeups.next()).await.expect("in time").expect("it never ends");
        if let Wakeup::HandedOff(handoff) = heard {
            assert_eq!(handoff.job.id, added.id);
            return added.id;
        }
        assert!(begun.elapsed() < WITHIN, "nothing is ever handed off");
    }
}

fn token(job: &Job) -> ClaimToken {
    ClaimToken::from_number(job.locked_at.expect("it is held").timestamp_micros())
}

/// Nothing is handed off to a worker whose listener is gone, whatever it has offered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_offer_ends_with_its_listener() {
    let server = Server::start(&["--appendonly", "no"]);
    let storage = open(&server).await;
    let consumer = storage.consumer();
    let (worker, _offers, mut wakeups) = listening(&consumer).await;
    let held = until_handed_off(&storage, &mut wakeups).await;
    // While that one is held no other is handed off, so that a worker which does not go on gets no more.
    assert_eq!(storage.add(&[job(2)]).await.expect("add")[0].locked_by, None);
    assert_eq!(consumer.release_untracked(&worker, &[]).await.expect("release"), 1);
    drop(wakeups);
    let (_, offers, wakeups) = listening(&consumer).await;
    drop((wakeups, offers));
    for n in 3..50 {
        let added = storage.add(&[job(n)]).await.expect("add").remove(0);
        if added.locked_by.is_none() {
            return;
        }
        // The server has not heard yet that the connection is closed.
        assert_ne!(added.id, held);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("jobs are handed off to a worker that does not listen");
}

/// What was released before it was heard of is nobody's, and must not start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_released_before_it_was_heard_of_is_not_told() {
    let server = Server::start(&["--appendonly", "no"]);
    let storage = open(&server).await;
    let consumer = storage.consumer();
    let (worker, offers, mut wakeups) = listening(&consumer).await;
    for round in 2..20 {
        let id = until_handed_off(&storage, &mut wakeups).await;
        let held = storage.job(id).await.expect("read").expect("a job");
        let result = Settlement::new(ClaimRef::new(&held, token(&held)), Outcome::completed());
        assert_eq!(consumer.settle(&worker, &[result]).await.expect("settle").applied, [id]);
        // Nobody polls the stream while this one is handed off and released.
        let unheard = storage.add(&[job(3)]).await.expect("add").remove(0);
        assert_eq!(unheard.locked_by.as_deref(), Some(worker.as_str()), "it is handed off");
        assert_eq!(consumer.release_untracked(&worker, &[]).await.expect("release"), 1);
        storage.add(&[job(4), job(5)]).await.expect("add");
        let mut heard = Vec::new();
        while heard.last() != Some(&Wakeup::JobsAdded(2)) && heard.last() != Some(&Wakeup::JobsAdded(3)) {
            heard.push(tokio::time::timeout(WITHIN, wakeups.next()).await.expect("in time").expect("it never ends"));
        }
        assert!(!heard.iter().any(|wakeup| matches!(wakeup, Wakeup::HandedOff(_))), "{heard:?}");
        offers.send_replace(Some(Offer::new(Arc::clone(&worker), [TASK.to_owned()].into(), round)));
    }
}

/// A listener that was slow for so long that the stream has forgotten what it missed is told that anything may have changed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_that_missed_entries_is_told_so() {
    let server = Server::start(&["--appendonly", "no"]);
    let storage = open(&server).await;
    let mut news = storage.messages().expect("messages").news();
    assert_eq!(tokio::time::timeout(WITHIN, news.next()).await.expect("in time"), Some(News::Listening));
    // Nobody polls it while many entries come and go.
    let other = JobSpec::new("other", 1).check(100).expect("a job");
    for _ in 0..3_000 {
        storage.add(std::slice::from_ref(&other)).await.expect("add");
    }
    let mut missed = false;
    let ends = tokio::time::Instant::now() + WITHIN;
    while !missed && tokio::time::Instant::now() < ends {
        let told = tokio::time::timeout(WITHIN, news.next()).await.expect("in time");
        missed = told == Some(News::Changed(Changes::anywhere()));
    }
    assert!(missed, "what was forgotten before it was read is told as anything");
}

/// What is published reaches every replica, and must be heard by nobody who does not get the job.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_handed_off_to_who_listens_to_another_server() {
    let master = Server::start(&["--appendonly", "no"]);
    let port = master.port.to_string();
    let replica = Server::start(&["--appendonly", "no", "--replicaof", "127.0.0.1", &port]);
    let storage = open(&master).await;
    let consumer = storage.consumer();
    let worker = worker(&*consumer).await;
    let client = redis::Client::open(replica.url()).expect("a client");
    let mut heard = client.get_async_pubsub().await.expect("connect");
    heard.subscribe("{backfill:faults}:handoff:x").await.expect("subscribe");
    while command(&master, &["WAIT", "1", "100"]).await != redis::Value::Int(1) {}
    let offer = format!("\0\0\0\0\0\0\0\0{{backfill:faults}}:handoff:x\0{TASK}\0");
    command(&master, &["HSET", "{backfill:faults}:offers", worker.as_str(), &offer]).await;
    assert_eq!(storage.add(&[job(1)]).await.expect("add")[0].locked_by, None);
    command(&master, &["PUBLISH", "{backfill:faults}:handoff:x", "the end"]).await;
    let message = tokio::time::timeout(WITHIN, heard.on_message().next()).await.expect("in time").expect("a message");
    assert_eq!(message.get_payload_bytes(), b"the end", "the job was published");
}

/// A proxy that lets nothing through any more, either way, on connections that have subscribed, and tells nobody.
async fn silencing_proxy(to: u16, silent: Arc<AtomicBool>) -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (server, silent) =
                (tokio::net::TcpStream::connect(("127.0.0.1", to)).await.expect("connect"), Arc::clone(&silent));
            let subscribed = Arc::new(AtomicBool::new(false));
            let ((client_in, client_out), (server_in, server_out)) = (client.into_split(), server.into_split());
            for (mut from, mut to) in [(client_in, server_out), (server_in, client_out)] {
                let (silent, subscribed) = (Arc::clone(&silent), Arc::clone(&subscribed));
                tokio::spawn(async move {
                    let mut bytes = vec![0; 65_536];
                    while let Ok(length @ 1..) = from.read(&mut bytes).await {
                        if bytes[..length].windows(9).any(|part| part == b"SUBSCRIBE") {
                            subscribed.store(true, Ordering::Relaxed);
                        }
                        if silent.load(Ordering::Relaxed) && subscribed.load(Ordering::Relaxed) {
                            std::future::pending::<()>().await;
                        }
                        if to.write_all(&bytes[..length]).await.is_err() {
                            break;
                        }
                    }
                });
            }
        }
    });
    port
}

/// A subscription that has died without a word is noticed, however much is told meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_that_died_without_a_word_is_noticed() {
    let server = Server::start(&["--appendonly", "no"]);
    let storage = open(&server).await;
    let silent = Arc::new(AtomicBool::new(false));
    let port = silencing_proxy(server.port, Arc::clone(&silent)).await;
    let behind = RedisStorage::open(&format!("redis://127.0.0.1:{port}"), "faults").expect("open");
    let (_, _offers, mut wakeups) = listening(&behind.consumer()).await;
    until_handed_off(&storage, &mut wakeups).await;
    silent.store(true, Ordering::Relaxed);
    let adding = tokio::spawn(async move {
        loop {
            storage.add(&[job(1), job(2)]).await.expect("add");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let lost = async { while !matches!(wakeups.next().await, Some(Wakeup::ListenerLost { .. })) {} };
    tokio::time::timeout(WITHIN, lost).await.expect("it is noticed");
    adding.abort();
}

/// What is heard while it is not known whether it was released waits until that is known, and is told if it was not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_handed_off_after_a_refused_or_dropped_release_is_told() {
    let server = Server::start(&["--appendonly", "no"]);
    let storage = open(&server).await;
    let consumer = storage.consumer();
    let (worker, offers, mut wakeups) = listening(&consumer).await;
    let id = until_handed_off(&storage, &mut wakeups).await;
    let held = storage.job(id).await.expect("read").expect("a job");
    let result = Settlement::new(ClaimRef::new(&held, token(&held)), Outcome::completed());
    consumer.settle(&worker, &[result]).await.expect("settle");
    command(&server, &["CONFIG", "SET", "min-replicas-to-write", "1"]).await;
    let error = consumer.release_untracked(&worker, &[]).await.expect_err("it is refused");
    assert!(error.is_refusal(), "{error}");
    command(&server, &["CONFIG", "SET", "min-replicas-to-write", "0"]).await;
    until_handed_off(&storage, &mut wakeups).await;

    // One that is dropped belongs to an identity that is given up.
    let mut dropped = consumer.release_untracked(&worker, &[]);
    assert!(futures::poll!(&mut dropped).is_pending());
    drop(dropped);
    consumer.deregister(&worker).await.expect("deregister");
    let other = Arc::new(crate::worker(&*consumer).await);
    offers.send_replace(Some(Offer::new(Arc::clone(&other), [TASK.to_owned()].into(), 2)));
    until_handed_off(&storage, &mut wakeups).await;
}

/// A job in its last attempt is not handed off: it would be dead without having run, if its worker died before it starts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_in_its_last_attempt_is_not_handed_off() {
    let server = Server::start(&["--appendonly", "no"]);
    let storage = open(&server).await;
    let consumer = storage.consumer();
    let (worker, _offers, mut wakeups) = listening(&consumer).await;
    until_handed_off(&storage, &mut wakeups).await;
    consumer.release_untracked(&worker, &[]).await.expect("release");
    let (_worker, _offers, mut wakeups) = listening(&consumer).await;
    let handed_off = until_handed_off(&storage, &mut wakeups).await;
    let held = storage.job(handed_off).await.expect("read").expect("a job");
    let result = Settlement::new(ClaimRef::new(&held, token(&held)), Outcome::completed());
    let holder = WorkerId::named(held.locked_by.clone().expect("it is held"));
    consumer.settle(&holder, &[result]).await.expect("settle");
    let last = JobSpec::new(TASK, 1).max_attempts(1).check(100).expect("a job");
    let added = storage.add(&[last]).await.expect("add").remove(0);
    assert_eq!((added.attempts, added.locked_by), (0, None));
}
