//! Processes that die, stop, or are kept from working by their jobs.

use std::time::Duration;

use backfill::JobSpec;
use tokio::time::sleep;

use super::{Ground, three_workers};
use crate::cluster::Stop;
use crate::scene::Outcome;
use crate::worker::How;

/// Survives by: rescue (`postgres/rescue.rs`), 15 s after the last heartbeat.
pub async fn a_worker_is_killed(ground: &Ground) -> Outcome {
    let mut scene = ground.scene().await;
    let rounds = ground.scaled(1, 4);
    scene.add(150 * rounds, 1500).await;
    scene.add_serial(60 * rounds, 7, 100).await;
    three_workers(&mut scene).await;
    for round in 0..rounds {
        let victim = scene.names().into_iter().min().expect("a worker");
        scene.kill(&victim).await;
        scene.start(&format!("{}{round}", victim.chars().next().unwrap_or('x')));
        sleep(Duration::from_secs(4)).await;
    }
    // And how soon what the last one held is free: its row is gone in the transaction that frees it.
    let victim = scene.names().into_iter().min().expect("a worker");
    scene.add(60, 1500).await;
    let known =
        scene.ask("select count(*) from graphile_worker.backfill_pools where seen_at > now() - interval '6 s'").await;
    scene.kill(&victim).await;
    let begun = std::time::Instant::now();
    scene
        .until_answered(
            "the rescue",
            &format!("select (count(*) < {known})::int::bigint from graphile_worker.backfill_pools"),
        )
        .await;
    let freed = begun.elapsed();
    assert!(freed < Duration::from_secs(21), "free within 20 s in the default settings: {freed:?}");
    let mut outcome = scene.end().await;
    outcome.remark = format!("what the last one held was free after {:.1} s", freed.as_secs_f64());
    outcome
}

/// Survives by: rescue, which leaves the attempt used (`postgres/rescue.rs`), and the index of what is available, in which a job
/// without attempts left is not.
pub async fn a_job_kills_every_process_that_runs_it(ground: &Ground) -> Outcome {
    let mut scene = ground.scene().await;
    let work = crate::worker::Work { ms: 0, how: How::AbortAlways, pad: String::new() };
    let job = scene.client.add(JobSpec::new("work", work).max_attempts(2)).await.expect("add");
    scene.add(20, 100).await;
    scene.start("a");
    for name in ["a", "a'"] {
        while scene.dead().is_none() {
            sleep(Duration::from_millis(20)).await;
        }
        scene.dies_and_is_restarted(name).await;
    }
    scene
        .until_answered(
            "its end",
            "select count(*) from graphile_worker._private_jobs where attempts = 2 and locked_at is null",
        )
        .await;
    let dead = scene.client.job(job.id).await.expect("read").expect("it is kept");
    assert!(dead.last_error.is_some_and(|text| text.contains("stopped sending heartbeats")), "it says why");
    let mut outcome = scene.end().await;
    outcome.remark = "dead after the two attempts it had".to_owned();
    outcome
}

/// Survives by: jobs that died with a worker twice come back apart from each other (`postgres/rescue.rs`).
pub async fn a_poison_job_has_neighbours(ground: &Ground) -> Outcome {
    let mut scene = ground.scene().await;
    scene.told.heartbeat = (500, 1_500);
    // What becomes due between two polls is claimed, and dies, together; they come back at times by chance. By the default poll
    // interval of two seconds, a neighbour would meet the poison four times in one run of twenty, and by this one hardly ever.
    scene.told.poll = 50;
    scene.add_with(9, 100, How::Sleep, 4).await;
    let poison = scene.add_with(1, 20, How::AbortAlways, 4).await;
    scene.disown(&poison);
    scene.start("a");
    let mut name = "a".to_owned();
    for _ in 0..4 {
        while scene.dead().is_none() {
            sleep(Duration::from_millis(20)).await;
        }
        scene.dies_and_is_restarted(&name).await;
        name.push('\'');
    }
    let mut outcome = scene.end().await;
    outcome.remark = "all of them have four attempts, of which the poison uses four".to_owned();
    outcome
}

/// Survives by: nothing is claimed ahead that has its last attempt before it (`ClaimRequest::free_slots`).
pub async fn a_worker_is_killed_with_jobs_in_their_last_attempt(ground: &Ground) -> Outcome {
    let mut scene = ground.scene().await;
    let jobs = scene.add_with(3_000, 0, How::Sleep, 1).await;
    for name in ["a", "b", "c"] {
        scene.start(name);
        let before = scene.finished().await;
        scene.until_finished(before + 300).await;
        scene.kill(name).await;
    }
    scene.start("d");
    scene
        .until_answered(
            "the end of all",
            "select (count(*) = 0)::int::bigint from graphile_worker._private_jobs where locked_by is not null or attempts = 0",
        )
        .await;
    let admin = scene.admin().await;
    let lost: Vec<i64> = sqlx::query_scalar("delete from graphile_worker._private_jobs returning id")
        .fetch_all(&admin)
        .await
        .expect("delete");
    admin.close().await;
    assert!(lost.iter().all(|job| jobs.contains(job)));
    // What was about to tell that it starts, in each slot of each of the three.
    let unstarted = scene.unstarted(&lost).await;
    assert!(unstarted <= 30, "only what ran: {unstarted} of {} had not started", lost.len());
    scene.disown(&lost);
    let mut outcome = scene.end().await;
    outcome.remark = format!("{} ran, or their results were unwritten, and have no attempt left", lost.len());
    outcome
}

/// Survives by: eviction. The stopped one finds its row gone, cancels its jobs, and goes on with a new identity; the fence
/// refuses its late results.
pub async fn a_worker_is_stopped_for_longer_than_the_lease(ground: &Ground) -> Outcome {
    let mut scene = ground.scene().await;
    scene.add(300, 1500).await;
    three_workers(&mut scene).await;
    scene.signal("a", "STOP").await;
    scene.hits("a");
    sleep(Duration::from_secs(25)).await;
    scene.signal("a", "CONT").await;
    scene.until("the eviction", "exists (select from told where what = 'evicted' and worker = 'a')").await;
    let before = scene.started_by("a").await;
    scene.add(150, 500).await;
    scene
        .until(
            "work with the new identity",
            &format!("(select count(*) from told where what = 'start' and worker = 'a') > {before}"),
        )
        .await;
    scene.end().await
}

/// Survives by: `idle_in_transaction_session_timeout` in the text that begins our transactions (`postgres/isolation.rs`): the locks
/// of a process that is stopped between two statements are gone before others look for them.
pub async fn a_worker_is_stopped_within_a_transaction(ground: &Ground) -> Outcome {
    let mut scene = ground.scene().await;
    scene.told.concurrency = 50;
    scene.start("a");
    // Results of both kinds are written together, in a transaction.
    let mut stopped = false;
    for _ in 0..200 {
        scene.add(30, 1).await;
        scene.client.add_many((0..30).map(|_| JobSpec::new("fail", ()).max_attempts(1))).await.expect("add");
        sleep(Duration::from_millis(fastrand::u64(0..20))).await;
        scene.signal("a", "STOP").await;
        // What is on its way to the server arrives.
        sleep(Duration::from_millis(10)).await;
        let within = scene
            .ask(
                "select count(*) from pg_stat_activity where datname = current_database() and state = 'idle in transaction'
                   and query like '%_private_jobs%'",
            )
            .await;
        if within > 0 {
            stopped = true;
            break;
        }
        scene.signal("a", "CONT").await;
    }
    assert!(stopped, "it was never caught within a transaction");
    scene.hits("a");
    // Rescued jobs have their results elsewhere, within 20 s and what a look takes.
    scene.start("b");
    let begun = std::time::Instant::now();
    while scene.ask("select count(*) from graphile_worker._private_jobs where attempts < max_attempts").await > 0 {
        assert!(begun.elapsed() < Duration::from_secs(40), "nobody waits for the stopped one's locks");
        sleep(Duration::from_millis(100)).await;
    }
    scene.recovered = Some(begun.elapsed());
    scene.signal("a", "CONT").await;
    scene.end().await
}

/// Survives by: `Engine::end`, which writes everything before the process ends.
pub async fn a_worker_is_asked_to_end_amid_a_batch(ground: &Ground) -> Outcome {
    let mut scene = ground.scene().await;
    scene.told.concurrency = 500;
    scene.add(1000, 2000).await;
    scene.start("a");
    scene.until_started(500).await;
    scene.signal("a", "TERM").await;
    scene.ended("a").await;
    assert_eq!(scene.ask("select count(*) from graphile_worker._private_jobs where locked_at is not null").await, 0);
    assert_eq!(scene.finished().await, scene.started().await, "what ran has finished");
    scene.start("b");
    let outcome = scene.end().await;
    assert_eq!(outcome.starts, outcome.jobs, "none is repeated");
    outcome
}

/// Survives by: the settler, which tries again until the grace period is over; what it cannot write, others are given.
pub async fn a_worker_is_asked_to_end_while_the_database_is_down(ground: &Ground) -> Outcome {
    let mut scene = ground.scene().await;
    scene.told.concurrency = 100;
    scene.add(200, 3000).await;
    scene.start("a");
    scene.until_started(100).await;
    scene.subject.stop(Stop::Immediate).await;
    scene.signal("a", "TERM").await;
    sleep(Duration::from_secs(6)).await;
    scene.subject.start().await;
    scene.outage_is_over();
    scene.ended("a").await;
    scene.start("b");
    let outcome = scene.end().await;
    assert_eq!(outcome.starts, outcome.jobs, "the results were held until they could be written");
    outcome
}

async fn a_job_kills_its_process(ground: &Ground, how: How) -> Outcome {
    let mut scene = ground.scene().await;
    scene.add(100, 500).await;
    scene.add_how(1, 500, how).await;
    scene.add(100, 500).await;
    scene.start("a");
    scene.start("b");
    let dies = loop {
        if let Some(dead) = scene.dead() {
            break dead;
        }
        sleep(Duration::from_millis(20)).await;
    };
    scene.dies_and_is_restarted(&dies).await;
    scene.end().await
}

/// Survives by: rescue. The attempt is used up, so such a job runs out in the end.
pub async fn a_job_aborts_its_process(ground: &Ground) -> Outcome {
    a_job_kills_its_process(ground, How::Abort).await
}

/// Survives by: the same.
pub async fn a_job_overflows_the_stack(ground: &Ground) -> Outcome {
    a_job_kills_its_process(ground, How::Overflow).await
}

/// Survives by: the thread of the heartbeats (`worker/maintenance.rs`).
pub async fn jobs_block_every_thread(ground: &Ground) -> Outcome {
    let mut scene = ground.scene().await;
    scene.add_how(2, 20_000, How::Block).await;
    scene.start("a");
    scene.until_started(2).await;
    // Another one, who would rescue them.
    scene.add(20, 100).await;
    scene.start("b");
    let outcome = scene.end().await;
    assert_eq!(outcome.starts, outcome.jobs, "a busy worker is not declared dead");
    outcome
}

/// Survives by: the grace period (25 s unless set otherwise), after which the job's future is dropped and others may have it.
pub async fn jobs_ignore_that_they_are_cancelled(ground: &Ground) -> Outcome {
    let mut scene = ground.scene().await;
    scene.told.grace = ground.scaled(6, 25);
    scene.add_how(4, ground.scaled(10_000, 33_000), How::Ignore).await;
    scene.start("a");
    scene.until_started(4).await;
    scene.signal("a", "TERM").await;
    scene.hits("a");
    scene.ended("a").await;
    assert_eq!(
        scene.ask("select count(*) from graphile_worker._private_jobs where attempts = 0 and run_at <= now() and locked_at is null").await,
        4,
        "they are free, and have not failed"
    );
    scene.start("b");
    scene.end().await
}

/// Survives by: connections of the worker's own (`postgres/connections.rs`).
pub async fn jobs_hold_every_connection_of_the_pool(ground: &Ground) -> Outcome {
    let mut scene = ground.scene().await;
    scene.told.pool = 1;
    scene.add_how(4, 4_000, How::Hold).await;
    scene.start("a");
    scene.start("b");
    let outcome = scene.end().await;
    assert_eq!(outcome.starts, outcome.jobs);
    outcome
}

/// Survives by: `for update skip locked`, and identities that the table refuses a second time (`postgres/heartbeat.rs`).
pub async fn fifty_workers_start_at_once(ground: &Ground) -> Outcome {
    let mut scene = ground.scene().await;
    let workers = ground.scaled(20, 50);
    scene.told.pool = 2;
    scene.add(2000, 20).await;
    scene.add_serial(500, 50, 5).await;
    for n in 0..workers {
        scene.start(&format!("w{n}"));
    }
    let mut outcome = scene.end().await;
    assert_eq!(outcome.starts, outcome.jobs, "each job is claimed once");
    outcome.remark = format!("{workers} processes");
    outcome
}
