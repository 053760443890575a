//! What happens between a worker and a healthy server.

use std::time::{Duration, Instant};

use backfill::JobSpec;
use tokio::time::sleep;

use super::{Ground, three_workers};
use crate::proxy::Way;
use crate::scene::Outcome;
use crate::support::LISTENS;
use crate::worker::{How, Work};

/// Survives by: retries.
pub async fn every_connection_is_reset(ground: &Ground) -> Outcome {
    let mut scene = ground.scene().await;
    let rounds = ground.scaled(10, 60);
    scene.add(rounds * 40, 300).await;
    three_workers(&mut scene).await;
    for _ in 0..rounds {
        scene.proxy.cut();
        sleep(Duration::from_millis(300)).await;
    }
    scene.outage_is_over();
    let outcome = scene.end().await;
    assert_eq!(outcome.starts, outcome.jobs);
    outcome
}

/// Survives by: the heartbeat on a new connection, which proves the old ones dead (`storage/line.rs`).
pub async fn connections_die_without_a_word(ground: &Ground) -> Outcome {
    let mut scene = ground.scene().await;
    scene.add(500, 500).await;
    three_workers(&mut scene).await;
    // In the moment between the first claim and the first heartbeat nothing could tell; then claims give up after 30 s.
    let heartbeats = "select case when count(*) = 3 then 1::bigint else 0 end from pg_stat_activity
                 where datname = current_database() and query ~ '^update .* set seen_at = clock_timestamp'";
    scene.until_answered("a heartbeat by each", heartbeats).await;
    scene.proxy.kill_silently();
    scene.outage_is_over();
    // What was running finishes; nothing new can start until the dead connections are given up.
    sleep(Duration::from_secs(1)).await;
    let before = scene.started().await;
    let begun = Instant::now();
    scene.until_started(before + 1).await;
    let recovered = begun.elapsed() + Duration::from_secs(1);
    assert!(recovered < Duration::from_secs(15), "new connections within the lease: {recovered:?}");
    scene.recovered = Some(recovered);
    scene.remark = "recovery is up to the first new start".to_owned();
    let outcome = scene.end().await;
    assert_eq!(outcome.starts, outcome.jobs);
    outcome
}

/// Survives by: the same, and by not declaring anybody dead right after an outage for all.
pub async fn nothing_passes_for_longer_than_the_lease(ground: &Ground) -> Outcome {
    let mut scene = ground.scene().await;
    scene.add(600, 500).await;
    three_workers(&mut scene).await;
    scene.proxy.set(Way::Stalled);
    sleep(ground.seconds(20, 60)).await;
    scene.proxy.set(Way::Open);
    scene.outage_is_over();
    let outcome = scene.end().await;
    assert_eq!(outcome.starts, outcome.jobs);
    outcome
}

/// Survives by: the listener's loopback checks (`postgres/listen.rs`), and polling meanwhile.
pub async fn the_listeners_connection_dies_without_a_word(ground: &Ground) -> Outcome {
    let mut scene = ground.scene().await;
    scene.start("a");
    scene.until("listening", "exists (select from told where what = 'listening')").await;
    let port = scene.ask(&format!("select client_port::bigint from pg_stat_activity where {LISTENS}")).await;
    scene.proxy.kill_one_silently(port.try_into().expect("a port"));
    let begun = Instant::now();
    scene.hits("a");
    // Nobody wakes it, and nobody has noticed: the next poll finds them.
    scene.add(20, 10).await;
    scene.until_finished(20).await;
    let polled = begun.elapsed();
    scene.until("the lost listener is noticed", "exists (select from told where what = 'listener lost')").await;
    scene.until("hearing again", "(select count(*) from told where what = 'listening') > 1").await;
    let recovered = begun.elapsed();
    assert!(recovered < Duration::from_secs(20), "a call each 10 s, and 5 s for the answer: {recovered:?}");
    scene.recovered = Some(recovered);
    scene.remark = format!("meanwhile jobs are found by polling, after {:.1} s", polled.as_secs_f64());
    scene.add(20, 10).await;
    let outcome = scene.end().await;
    assert_eq!(outcome.starts, outcome.jobs);
    outcome
}

/// Survives by: retries; an address that is not known is one that may be known later.
pub async fn a_name_is_not_resolved(ground: &Ground) -> Outcome {
    let mut scene = ground.scene().await;
    let directory = tempfile::tempdir().expect("a directory");
    let hosts = directory.path().join("hosts");
    let known = "127.0.0.1 database.test\n";
    std::fs::write(&hosts, known).expect("write");
    let wrapper = std::env::var("BACKFILL_TEST_NSS_WRAPPER").expect("asked before");
    scene.environment = vec![("LD_PRELOAD", wrapper), ("NSS_WRAPPER_HOSTS", hosts.display().to_string())];
    scene.told.url = scene.told.url.replacen("127.0.0.1", "database.test", 1);
    scene.add(400, 300).await;
    three_workers(&mut scene).await;
    std::fs::write(&hosts, "127.0.0.1 elsewhere.test\n").expect("write");
    scene.proxy.cut();
    // One that begins without a name waits for it, too.
    scene.start("d");
    sleep(ground.seconds(8, 40)).await;
    assert_eq!(scene.dead(), None, "nobody ends for it");
    assert!(scene.has_logged("failed to lookup address"), "this is what happened");
    std::fs::write(&hosts, known).expect("write");
    scene.outage_is_over();
    let outcome = scene.end().await;
    assert_eq!(outcome.starts, outcome.jobs);
    outcome
}

/// Survives by: retries. First the server shows a certificate that nobody trusts, then it speaks no TLS at all.
pub async fn tls_fails(ground: &Ground) -> Outcome {
    let mut scene = ground.scene().await;
    let (trusted, foreign) = (scene.subject.certificate("trusted").await, scene.subject.certificate("foreign").await);
    scene.subject.speak_tls(Some(&trusted)).await;
    scene.told.url += &format!("?sslmode=verify-full&sslrootcert={}", trusted.authority.display());
    scene.add(500, 300).await;
    three_workers(&mut scene).await;
    let encrypted = "select count(*) from pg_stat_ssl join pg_stat_activity using (pid)
                     where ssl and datname = current_database()";
    assert!(scene.ask(encrypted).await > 0, "it is TLS that fails");
    for (shown, said) in [(Some(&foreign), "UnknownIssuer"), (None, "TLS")] {
        scene.subject.speak_tls(shown).await;
        scene.proxy.cut();
        sleep(ground.seconds(5, 30)).await;
        assert_eq!(scene.dead(), None, "nobody ends for it");
        assert!(scene.has_logged(said), "this is what happened");
    }
    scene.subject.speak_tls(Some(&trusted)).await;
    scene.outage_is_over();
    let subject = std::sync::Arc::clone(&scene.subject);
    let outcome = scene.end().await;
    subject.speak_tls(None).await;
    assert_eq!(outcome.starts, outcome.jobs);
    outcome
}

/// Survives by: settlements that may be sent twice, and the release of claims whose answer was lost.
pub async fn answers_are_lost(ground: &Ground) -> Outcome {
    let mut scene = ground.scene().await;
    let rounds = ground.scaled(5, 20);
    scene.add(rounds * 60, 200).await;
    three_workers(&mut scene).await;
    for _ in 0..rounds {
        scene.proxy.set(Way::Mute);
        sleep(Duration::from_millis(300)).await;
        scene.proxy.cut();
        scene.proxy.set(Way::Open);
        sleep(Duration::from_millis(700)).await;
    }
    scene.outage_is_over();
    let outcome = scene.end().await;
    assert_eq!(outcome.starts, outcome.jobs, "whether a commit was acknowledged makes no difference");
    outcome
}

/// Survives by: claims ahead by the pace just measured (`worker/pace.rs`), results in batches, and a heartbeat with time for an answer.
pub async fn everything_is_slow(ground: &Ground) -> Outcome {
    let mut scene = ground.scene().await;
    scene.proxy.set(Way::Slow(Duration::from_millis(200)));
    scene.add(150, 100).await;
    three_workers(&mut scene).await;
    let before = scene.memory();
    scene.add(500, 0).await;
    scene.until_finished(650).await;
    let grown = scene.memory().saturating_sub(before);
    assert!(grown < 20, "memory stays bounded: {grown} MiB more");
    let mut outcome = scene.end().await;
    assert_eq!(outcome.starts, outcome.jobs);
    outcome.remark = "200 ms each way".to_owned();
    outcome
}

/// Survives by: `tcp_user_timeout` in the claim (`postgres/claim`): the server's system gives up a connection on which nobody takes
/// what is sent, and the transaction with it. Otherwise the jobs would be locked for as long as the claim is being answered.
pub async fn a_claims_answer_is_not_taken(ground: &Ground) -> Outcome {
    let mut scene = ground.scene().await;
    scene.start("a");
    scene.until("a listens", "exists (select from told where what = 'listening' and worker = 'a')").await;
    // Its next claim waits for the lock, and finds jobs whose payloads are more than the buffers on the way can hold.
    let admin = scene.admin().await;
    let mut tx = admin.begin().await.expect("begin");
    sqlx::query("lock table graphile_worker._private_jobs in exclusive mode").execute(&mut *tx).await.expect("lock");
    let large = || JobSpec::new("work", Work { ms: 10, how: How::Sleep, pad: "x".repeat(2 * 1024 * 1024) });
    let added = scene.client.add_many((0..20).map(|_| large())).within(&mut tx).await.expect("add");
    scene.accept(added.into_iter().map(|job| job.id.number()));
    let claims =
        |waits: &str| format!("select count(*) from pg_stat_activity where {waits} and query like '%backfill_claim%'");
    scene.until_answered("a claim", &claims("wait_event_type = 'Lock'")).await;
    scene.proxy.set(Way::Clogged);
    scene.hits("a");
    tx.commit().await.expect("commit");
    scene.until_answered("an answer that nobody takes", &claims("wait_event = 'ClientWrite'")).await;
    let begun = Instant::now();
    // Not through the proxy.
    scene.told.url = scene.subject.url(&scene.database);
    scene.start("b");
    scene.until_finished(20).await;
    scene.recovered = Some(begun.elapsed());
    scene.proxy.set(Way::Open);
    let outcome = scene.end().await;
    assert_eq!(outcome.starts, outcome.jobs);
    outcome
}
