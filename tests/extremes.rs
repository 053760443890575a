//! Whatever a program says, it is told what is wrong with it: no panic.

use std::time::Duration;

use backfill::cron::{Dialect, Schedule};
use backfill::storage::{ClaimRef, ClaimRequest, Outcome, Registration, Settlement, Watch, WorkerId};
use backfill::worker::Prefetch;
use backfill::{
    Answer, BackfillClient, Cleanup, Clock, CronEntry, JobContext, JobFilter, JobId, JobSpec, Reschedule, RetryPolicy,
    RunAt, TaskError, Worker, task_fn,
};
use chrono::{DateTime, TimeDelta, Utc};

const TIMES: [DateTime<Utc>; 2] = [DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MAX_UTC];
const DURATIONS: [Duration; 3] = [Duration::ZERO, Duration::from_nanos(1), Duration::MAX];

fn schedules() -> Vec<Schedule> {
    let mut schedules = Vec::new();
    for text in ["* * * * *", "0 0 29 2 *", "0 0 31 2 *", "59 23 31 12 *"] {
        schedules.push(text.parse().expect("fields"));
    }
    for text in ["0 * * * * *", "59 59 23 31 12 *"] {
        schedules.push(Schedule::expression(text).expect("an expression"));
        schedules.push(Schedule::parse(text, Dialect::Extended).expect("fields with seconds"));
    }
    #[cfg(feature = "time-zones")]
    for zone in ["Europe/Berlin", "America/New_York", "Pacific/Kiritimati", "Pacific/Pago_Pago"] {
        let zoned = schedules.clone().into_iter().map(|schedule| schedule.in_time_zone(zone).expect("a zone"));
        schedules = zoned.chain(schedules).collect();
    }
    schedules.push(Schedule::when(|_| true));
    schedules
}

#[test]
fn schedules_answer_at_the_ends_of_time() {
    let near =
        [TimeDelta::zero(), TimeDelta::nanoseconds(1), TimeDelta::minutes(1), TimeDelta::days(1), TimeDelta::days(3)];
    let mut times: Vec<DateTime<Utc>> = near
        .into_iter()
        .flat_map(|by| {
            [DateTime::<Utc>::MIN_UTC.checked_add_signed(by), DateTime::<Utc>::MAX_UTC.checked_sub_signed(by)]
        })
        .flatten()
        .collect();
    for year in ["-9999", "-0001", "0000", "0001", "1600", "1900", "1969", "2100", "2101", "2300", "+99999"] {
        times.push(format!("{year}-01-01T00:00:00Z").parse().expect("a time"));
        times.push(format!("{year}-12-31T23:59:59.999999999Z").parse().expect("a time"));
    }
    for schedule in schedules() {
        for time in &times {
            let _ = schedule.matches(*time);
            if let Some(next) = schedule.next_after(*time) {
                assert!(next > *time, "{schedule}: {next} after {time}");
                // Before there were zones, clocks went by the sun, and differed by seconds.
                assert!(schedule.matches(next) || next < DateTime::UNIX_EPOCH, "{schedule}: {next} after {time}");
            }
        }
    }
    for time in TIMES {
        // Asked for each minute of a year.
        assert_eq!(Schedule::when(|_| false).next_after(time), None);
    }
    let every: Schedule = "* * * * *".parse().expect("fields");
    let of_closure = Schedule::when(|_| true);
    for text in ["0001-01-01T00:00:30Z", "2999-12-31T23:59:59Z"] {
        let time: DateTime<Utc> = text.parse().expect("a time");
        assert_eq!(every.next_after(time), of_closure.next_after(time), "closures know every century");
    }
    let expression = Schedule::expression("0 0 0 1 1 *").expect("an expression");
    assert_eq!(expression.next_after(TIMES[0]), Some(DateTime::UNIX_EPOCH), "the first year that it knows");
}

#[tokio::test]
async fn workers_are_built_or_refused() {
    let builder = || async {
        let client = BackfillClient::in_memory();
        Worker::builder(client).task(task_fn("t", |(): (), _: JobContext| async {}))
    };
    for size in [0, 1, usize::MAX] {
        for duration in DURATIONS {
            let prefetch = Prefetch::new(size).ttl(duration).refetch_delay(duration, size).refetch_abort_at(u64::MAX);
            let _ = builder().await.prefetch(prefetch).build();
            let _ = builder()
                .await
                .prefetch(Prefetch::new(size).refetch_delay(duration, 1).refetch_delay(duration, 2))
                .build();
            let _ = builder().await.concurrency(size).event_capacity(size).build();
            let _ = builder().await.poll_interval(duration).heartbeat_every(duration).dead_after(duration).build();
            let _ = builder().await.grace(duration).cancel_after(duration).second_signal_after(duration).build();
            let _ = builder().await.sweep_interval(duration, duration).build();
            let limited = task_fn("u", |(): (), _: JobContext| async {}).timeout(duration).concurrency(size);
            let _ = builder().await.task(limited).build();
            for schedule in schedules().into_iter().take(3) {
                let entry = CronEntry::new("t", schedule).backfill(duration).max_attempts(i16::MAX);
                let _ = builder().await.cron(entry).build();
            }
        }
    }
}

#[test]
fn retry_policies_answer_for_any_attempt() {
    for duration in DURATIONS {
        for number in [f64::NEG_INFINITY, -1.0, 0.0, 0.5, f64::MAX, f64::INFINITY, f64::NAN] {
            let policies = [
                RetryPolicy::graphile(),
                RetryPolicy::fixed(duration),
                RetryPolicy::linear(duration, Duration::MAX),
                RetryPolicy::exponential(duration, number, Duration::MAX),
                RetryPolicy::exponential(Duration::MAX, number, duration),
                RetryPolicy::custom(move |_| duration),
            ];
            for policy in policies {
                for attempt in [0, 1, 25, 10_000, u32::MAX] {
                    let _ = policy.delay(attempt);
                    let _ = policy.clone().with_jitter(number).delay(attempt);
                }
            }
        }
    }
}

#[tokio::test]
async fn jobs_with_extreme_values_are_stored_or_refused_and_run() {
    let client = BackfillClient::in_memory().with_clock(Clock::application());
    let mut specs = Vec::new();
    for duration in DURATIONS {
        specs.push(JobSpec::new("t", 0).run_in(duration).priority(i16::MIN).max_attempts(u32::MAX));
        specs.push(JobSpec::new("t", 0).run_in(duration).priority(i16::MAX).max_attempts(32767));
    }
    for time in TIMES {
        specs.push(JobSpec::new("t", 0).run_at(time).priority(i16::MAX).max_attempts(0));
        specs.push(JobSpec::new("t", 0).run_at(time).max_attempts(1));
    }
    for spec in specs {
        let _ = client.add(spec).await;
    }
    let stored = client.jobs(&JobFilter::new().limit(u32::MAX).after(i64::MIN.into())).await.expect("list");
    assert!(stored.len() >= 2, "{stored:?}");
    let ids: Vec<JobId> = stored.iter().map(|job| job.id).chain([i64::MIN, i64::MAX].map(JobId::from)).collect();
    let whens: Vec<RunAt> = DURATIONS.into_iter().map(RunAt::In).chain(TIMES.into_iter().map(RunAt::Time)).collect();
    for when in &whens {
        let change = match when {
            RunAt::In(delay) => Reschedule::new().run_in(*delay),
            RunAt::Time(time) => Reschedule::new().run_at(*time),
        };
        let _ = client.reschedule(&ids, &change.attempts(i16::MIN).max_attempts(i16::MAX)).await;
        let _ = client.reschedule(&ids, &Reschedule::new().attempts(i16::MAX).max_attempts(i16::MIN)).await;
    }
    let _ = client.cleanup(&Cleanup::new().dead_jobs().queues().tasks([""; 1])).await;

    // Whatever a task answers.
    let storage = client.storage().consumer();
    let (worker, tasks) = (WorkerId::random(), ["t".to_owned()]);
    storage.register(&Registration::new(&worker, &tasks)).await.expect("register");
    for when in whens {
        let outcomes = [
            Outcome::failed("e".repeat(100_000), when),
            Outcome::snoozed(when),
            Outcome::interrupted("").after(Duration::MAX),
        ];
        for outcome in outcomes {
            client.add(JobSpec::new("t", 0).priority(i16::MIN)).await.expect("add");
            let claimed = storage.claim(&ClaimRequest::new(&worker, &tasks, usize::MAX)).await.expect("claim").jobs;
            let results: Vec<Settlement> =
                claimed.iter().map(|job| Settlement::new(ClaimRef::of(job), outcome.clone())).collect();
            storage.settle(&worker, &results).await.expect("settle");
        }
        let _ = Answer::snooze(when);
    }
    for duration in DURATIONS {
        let _ = storage.rescue(&Watch::new(duration)).await;
        let _ = TaskError::new("").retry_in(duration);
    }
}
