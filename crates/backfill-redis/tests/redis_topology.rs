//! More than one server: a master that sentinels choose, and a cluster whose slots move.

mod redis_scene;
mod redis_server;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use backfill_core::job::JobId;
use backfill_core::storage::{
    ClaimRef, ClaimRequest, Consumer, Outcome, Registration, Settlement, Storage, Wakeup, WorkerId,
};
use backfill_redis::RedisStorage;
use futures::StreamExt;
use redis::Value;
use redis_scene::{TASK, WITHIN, all_ids, command, job, try_command};
use redis_server::Server;
use tokio::sync::watch;

/// Asks until the answer is as wanted.
async fn until(what: &str, server: &Server, words: &[&str], wanted: impl Fn(&str) -> bool) {
    let begun = Instant::now();
    loop {
        let answer = try_command(server, words).await.ok();
        let text = answer.and_then(|value| redis::from_redis_value::<String>(value).ok()).unwrap_or_default();
        if wanted(&text) {
            return;
        }
        assert!(begun.elapsed() < WITHIN, "{what}: {text}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Adds until it succeeds, and answers how often it failed. Whatever fails may pass.
async fn add_until_done(storage: &RedisStorage, n: i64) -> (JobId, u32) {
    let begun = Instant::now();
    let mut failed = 0;
    loop {
        match tokio::time::timeout(Duration::from_secs(10), storage.add(&[job(n)])).await {
            Ok(Ok(jobs)) => return (jobs[0].id, failed),
            Ok(Err(error)) => assert!(error.is_transient(), "{error}"),
            Err(_) => {
                storage.consumer().reconnect();
            }
        }
        failed += 1;
        assert!(begun.elapsed() < WITHIN, "no master within {WITHIN:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// When the master dies, the sentinels' next one is found by callers and listeners, with all that it had heard of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sentinels_next_master_is_found() {
    let mut master = Server::start(&["--appendonly", "no"]);
    let port = master.port.to_string();
    let replica = Server::start(&["--appendonly", "no", "--replicaof", "127.0.0.1", &port]);
    until("the replica hears", &master, &["INFO", "replication"], |info| info.contains("state=online")).await;
    let sentinels: Vec<Server> = (0..3).map(|_| Server::start_sentinel("main", master.port)).collect();
    for sentinel in &sentinels {
        until("sentinels know each other", sentinel, &["INFO", "sentinel"], |info| {
            info.contains("slaves=1,sentinels=3")
        })
        .await;
    }
    let hosts: Vec<String> = sentinels.iter().map(|sentinel| format!("127.0.0.1:{}", sentinel.port)).collect();
    let storage = RedisStorage::open(&format!("redis+sentinel://{}/main", hosts.join(",")), "sentinels").expect("open");
    storage.migrate().await.expect("migrate");
    let mut wakeups = storage.wakeups(None);
    let mut heard = async |wanted: fn(&Wakeup) -> bool| {
        let wait = async { while !wanted(&wakeups.next().await.expect("it never ends")) {} };
        tokio::time::timeout(WITHIN, wait).await.expect("in time");
    };
    heard(|wakeup| *wakeup == Wakeup::Listening).await;

    let before: HashSet<JobId> =
        storage.add(&(0..100).map(job).collect::<Vec<_>>()).await.expect("add").iter().map(|job| job.id).collect();
    heard(|wakeup| matches!(wakeup, Wakeup::JobsAdded(_))).await;
    // What the replica has not heard of may be lost; here it has.
    assert_eq!(command(&master, &["WAIT", "1", "10000"]).await, Value::Int(1));
    master.kill();
    heard(|wakeup| matches!(wakeup, Wakeup::ListenerLost { .. })).await;
    let (id, failed) = add_until_done(&storage, 100).await;
    assert!(failed > 0, "for a while there is no master");
    heard(|wakeup| *wakeup == Wakeup::Listening).await;
    assert!(!before.contains(&id));
    let there = all_ids(&storage).await;
    assert!(before.is_subset(&there) && there.contains(&id));
    until("the replica is the master", &replica, &["INFO", "replication"], |info| info.contains("role:master")).await;
}

/// A cluster of three masters that know each other, each with a third of the slots.
async fn cluster() -> Vec<Server> {
    let options = ["--appendonly", "no", "--cluster-enabled", "yes", "--cluster-node-timeout", "2000"];
    let servers: Vec<Server> = (0..3).map(|_| Server::start(&options)).collect();
    for (server, (from, to)) in servers.iter().zip([("0", "5460"), ("5461", "10922"), ("10923", "16383")]) {
        command(server, &["CLUSTER", "ADDSLOTSRANGE", from, to]).await;
        command(server, &["CLUSTER", "MEET", "127.0.0.1", &servers[0].port.to_string()]).await;
    }
    for server in &servers {
        until("the cluster is up", server, &["CLUSTER", "INFO"], |info| {
            info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3")
        })
        .await;
    }
    servers
}

fn url(servers: &[Server]) -> String {
    let hosts: Vec<String> = servers.iter().map(|server| format!("127.0.0.1:{}", server.port)).collect();
    format!("redis+cluster://{}", hosts.join(","))
}

async fn slot_of(server: &Server, namespace: &str) -> u16 {
    let key = format!("{{backfill:{namespace}}}:jobs");
    redis::from_redis_value(command(server, &["CLUSTER", "KEYSLOT", &key]).await).expect("a slot")
}

async fn id_of(server: &Server) -> String {
    redis::from_redis_value(command(server, &["CLUSTER", "MYID"]).await).expect("an id")
}

/// Namespaces are spread over the servers, and each works as a whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn namespaces_are_spread_over_a_cluster() {
    let servers = cluster().await;
    let mut used = HashSet::new();
    for n in 0..12 {
        let namespace = format!("spread {n}");
        let storage = RedisStorage::open(&url(&servers), &namespace).expect("open");
        storage.migrate().await.expect("migrate");
        storage.add(&(0..10).map(job).collect::<Vec<_>>()).await.expect("add");
        let consumer = storage.consumer();
        let (worker, tasks) = (WorkerId::random(), [TASK.to_owned()]);
        consumer.register(&Registration::new(&worker, &tasks)).await.expect("register");
        let claimed = consumer.claim(&ClaimRequest::new(&worker, &tasks, 100)).await.expect("claim").jobs;
        let results: Vec<Settlement> =
            claimed.iter().map(|job| Settlement::new(ClaimRef::of(job), Outcome::completed())).collect();
        assert_eq!(consumer.settle(&worker, &results).await.expect("settle").applied.len(), 10);
        let slot = slot_of(&servers[0], &namespace).await;
        used.insert([5_461, 10_923, 16_384].iter().position(|end| slot < *end));
    }
    assert_eq!(used.len(), 3, "every server has some");
}

/// While a namespace's slot moves to another server, every add that was answered is there once, and nothing is refused for good.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_moves_loses_nothing() {
    let servers = cluster().await;
    let storage = RedisStorage::open(&url(&servers), "moving").expect("open");
    storage.migrate().await.expect("migrate");
    let slot = slot_of(&servers[0], "moving").await;
    let from = [5_461, 10_923, 16_384].iter().position(|end| slot < *end).expect("a server");
    let to = (from + 1) % 3;
    let stop = Arc::new(AtomicBool::new(false));
    let (counts, mut count) = watch::channel(0_usize);
    let adding = tokio::spawn({
        let (storage, stop) = (storage.clone(), Arc::clone(&stop));
        async move {
            let mut ids = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let (id, _) = add_until_done(&storage, 1).await;
                ids.push(id);
                counts.send_replace(ids.len());
            }
            ids
        }
    });
    let mut until_more_are_added = async || {
        let before = *count.borrow();
        let more = count.wait_for(|count| *count > before + 50);
        tokio::time::timeout(WITHIN, more).await.expect("in time").expect("no panic");
    };
    for (from, to) in [(from, to), (to, from)] {
        until_more_are_added().await;
        let (from, to) = (&servers[from], &servers[to]);
        let (from_id, to_id, slot) = (id_of(from).await, id_of(to).await, slot.to_string());
        command(to, &["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from_id]).await;
        command(from, &["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id]).await;
        loop {
            let keys: Vec<String> =
                redis::from_redis_value(command(from, &["CLUSTER", "GETKEYSINSLOT", &slot, "3"]).await).expect("keys");
            if keys.is_empty() {
                break;
            }
            let port = to.port.to_string();
            let mut words = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
            words.extend(keys.iter().map(String::as_str));
            command(from, &words).await;
        }
        for server in [to, from] {
            command(server, &["CLUSTER", "SETSLOT", &slot, "NODE", &to_id]).await;
        }
    }
    until_more_are_added().await;
    stop.store(true, Ordering::Relaxed);
    let added = adding.await.expect("no panic");
    assert_eq!(all_ids(&storage).await, added.into_iter().collect::<HashSet<_>>());
}
