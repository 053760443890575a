//! Who listens is woken, and soon.

use std::time::{Duration, Instant};

use chrono::Utc;
use futures::StreamExt;

use super::super::{Subject, add, add_one, admin, claim_one, heartbeat, register, settle, spec};
use crate::storage::{Outcome, Reschedule, Wakeup, Watch};

/// Who listens hears of added jobs.
pub async fn adding_wakes_a_listener(storage: Subject) {
    let mut wakeups = storage.wakeups(None);
    let within = Duration::from_secs(20);
    let first = tokio::time::timeout(within, wakeups.next()).await.expect("in time");
    assert_eq!(first, Some(Wakeup::Listening));
    // A number that nobody else adds: a storage may tell every listener of everybody's jobs.
    add(&storage, (0..137).map(|_| spec()).collect()).await;
    tokio::time::timeout(within, async { while wakeups.next().await != Some(Wakeup::JobsAdded(137)) {} })
        .await
        .expect("in time");
}

/// A wakeup is worth something only if it comes long before a worker would look by itself, which is after two seconds.
pub async fn a_wakeup_comes_long_before_the_next_poll(storage: Subject) {
    let mut wakeups = storage.wakeups(None);
    let mut late = Vec::new();
    let heard = async {
        assert_eq!(wakeups.next().await, Some(Wakeup::Listening));
        for jobs in 1000..1021 {
            add(&storage, (0..jobs).map(|_| spec()).collect()).await;
            let added = Instant::now();
            while wakeups.next().await != Some(Wakeup::JobsAdded(jobs)) {}
            late.push(added.elapsed());
        }
    };
    tokio::time::timeout(Duration::from_secs(60), heard).await.expect("in time");
    assert_comes_before_a_poll(late);
}

/// By the median, so that a machine that is busy now and then fails nobody; it is printed, to be read.
pub(in crate::storage::contract) fn assert_comes_before_a_poll(mut late: Vec<Duration>) {
    late.sort();
    let median = late[late.len() / 2];
    println!("a job is heard of {median:?} later ({:?} to {:?})", late[0], late[late.len() - 1]);
    assert!(median < Duration::from_secs(1), "{median:?}");
}

/// Whatever makes a job ready wakes a listener: replacing it, rescheduling it, releasing it.
pub async fn making_a_job_ready_wakes_a_listener(storage: Subject) {
    let worker = register(&storage).await;
    let later = || spec().key("k").run_in(Duration::from_secs(3600));
    let job = add_one(&storage, later()).await;
    let mut wakeups = storage.wakeups(None);
    let within = Duration::from_secs(20);
    let first = tokio::time::timeout(within, wakeups.next()).await.expect("in time");
    assert_eq!(first, Some(Wakeup::Listening));
    for how in [
        "replacing",
        "rescheduling",
        "unlocking",
        "releasing",
        "settling as released",
        "settling as cut off",
        "rescuing",
    ] {
        let worker = if how == "replacing" { worker.clone() } else { register(&storage).await };
        match how {
            "replacing" => drop(add_one(&storage, spec().key("k")).await),
            "rescheduling" => {
                let change = Reschedule::new().run_at(Utc::now());
                assert_eq!(admin(&storage).reschedule(&[job.id], &change).await.expect("reschedule").len(), 1);
            }
            "unlocking" => {
                claim_one(&storage, &worker).await;
                assert_eq!(admin(&storage).unlock(&[worker.to_string()]).await.expect("unlock"), 1);
            }
            "releasing" => {
                claim_one(&storage, &worker).await;
                assert_eq!(storage.release_untracked(&worker, &[]).await.expect("release"), 1);
            }
            "settling as released" => {
                let job = claim_one(&storage, &worker).await;
                settle(&storage, &worker, &job, Outcome::Released).await;
            }
            "settling as cut off" => {
                let job = claim_one(&storage, &worker).await;
                settle(&storage, &worker, &job, Outcome::interrupted("")).await;
            }
            _ => {
                claim_one(&storage, &worker).await;
                heartbeat::let_time_pass().await;
                let rescued = storage.rescue(&Watch::new(Duration::from_millis(1))).await.expect("rescue");
                assert!(rescued.iter().any(|rescued| rescued.jobs == 1));
            }
        }
        // A storage may tell every listener of everybody's jobs.
        tokio::time::timeout(within, async { while !matches!(wakeups.next().await, Some(Wakeup::JobsAdded(_))) {} })
            .await
            .unwrap_or_else(|_| panic!("{how} wakes nobody"));
    }
}

/// Who begins to listen is told so before anything else, however many jobs are being added at that moment.
pub async fn a_listener_is_told_first_that_it_listens(storage: Subject) {
    for _ in 0..5 {
        let mut wakeups = storage.wakeups(None);
        let first = {
            let adding = async {
                loop {
                    add_one(&storage, spec()).await;
                    // Not every storage has to wait for anything.
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! {
                () = adding => unreachable!("it adds until it is dropped"),
                first = tokio::time::timeout(Duration::from_secs(20), wakeups.next()) => first.expect("in time"),
            }
        };
        assert_eq!(first, Some(Wakeup::Listening));
    }
}
