//! Schedules.

use std::time::Duration;

use backfill_workflow::{Ctx, EngineBuilder, Error, Failure, Filter, Schedule, Tick, Workflow};
use chrono::{DateTime, TimeDelta, Utc};

use crate::place::{Counter, Place, within};

const TICKS: Workflow<Tick, DateTime<Utc>> = Workflow::named("ticks");

fn ticks(builder: &mut EngineBuilder, begun: &Counter) {
    let begun = begun.clone();
    builder.register("ticks", move |_: Ctx, tick: Tick| {
        begun.add();
        async move { Ok::<_, Failure>(tick.scheduled_time) }
    });
}

fn of_schedule(name: &str) -> Filter {
    Filter { schedules: vec![name.to_owned()], load_output: true, ..Filter::default() }
}

pub(crate) async fn one_is_started_for_each_moment_by_many_processes(place: Place) {
    let begun = Counter::new();
    let schedule = Schedule::new("seconds", TICKS, "* * * * * *").context(&7);
    let mut engines = Vec::new();
    for _ in 0..3 {
        let mut builder = place.engine().await.schedule(schedule.clone());
        ticks(&mut builder, &begun);
        engines.push(builder.launch().await.unwrap());
    }
    begun.reaches(2).await;
    let client = place.client().await;
    let row = client.schedules().await.unwrap().remove(0);
    assert!(row.last_fired_at.is_some());
    assert!(client.delete_schedule("seconds").await.unwrap());
    for engine in engines {
        engine.shutdown(Duration::from_secs(10)).await;
    }
    let runs = client.list(&of_schedule("seconds")).await.unwrap();
    let mut moments: Vec<&str> = runs.iter().map(|run| run.id.strip_prefix("sched-seconds-").unwrap()).collect();
    moments.sort_unstable();
    moments.dedup();
    assert_eq!(moments.len(), runs.len(), "one for each moment");
    assert!(runs.iter().all(|run| run.version.as_deref() == Some("v1")), "they are the latest version's");
    let input = runs[0].input.clone();
    assert!(input.is_none(), "inputs are read if they are asked for");
}

pub(crate) async fn paused_ones_start_nothing(place: Place) {
    let begun = Counter::new();
    let client = place.client().await;
    client.set_schedule(&Schedule::new("s", TICKS, "* * * * * *")).await.unwrap();
    assert!(client.pause_schedule("s").await.unwrap());
    let mut builder = place.engine().await;
    ticks(&mut builder, &begun);
    let engine = builder.launch().await.unwrap();
    // One started by hand runs all the same, and shows that the engine has looked.
    let handle = client.trigger_schedule("s").await.unwrap();
    within(handle.result()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1300)).await;
    assert_eq!(begun.get(), 1);
    assert!(engine.resume_schedule("s").await.unwrap());
    begun.reaches(2).await;
    assert!(engine.delete_schedule("s").await.unwrap());
    for known in
        [client.pause_schedule("s").await, client.resume_schedule("s").await, client.delete_schedule("s").await]
    {
        assert!(!known.unwrap());
    }
    assert!(matches!(client.trigger_schedule("s").await, Err(Error::Invalid { .. })));
}

pub(crate) async fn a_window_is_made_up_for_once(place: Place) {
    let begun = Counter::new();
    let mut builder = place.engine().await;
    ticks(&mut builder, &begun);
    let engine = builder.launch().await.unwrap();
    let schedule = Schedule::new("nightly", TICKS, "0 30 6 * * *").time_zone("Europe/Berlin");
    engine.set_schedule(&schedule).await.unwrap();
    let from: DateTime<Utc> = "2026-01-10T05:30:00Z".parse().unwrap();
    let until = from + TimeDelta::days(4);
    for _ in 0..2 {
        let handles = engine.backfill_schedule("nightly", from, until).await.unwrap();
        let ids: Vec<&str> = handles.iter().map(backfill_workflow::Handle::id).collect();
        assert_eq!(ids[0], "sched-nightly-2026-01-11T05:30:00Z");
        assert_eq!(ids.len(), 3, "both ends are left out: {ids:?}");
        for handle in handles {
            within(handle.result()).await.unwrap();
        }
    }
    assert_eq!(begun.get(), 3);
    let result = engine.backfill_schedule("nightly", from, from + TimeDelta::days(365 * 40)).await;
    assert!(matches!(result, Err(Error::Invalid { .. })));
}

pub(crate) async fn a_wrong_expression_is_refused(place: Place) {
    let client = place.client().await;
    for schedule in [
        Schedule::new("s", TICKS, "every day"),
        Schedule::new("s", TICKS, "0 0 25 * * *"),
        Schedule::new("s", TICKS, "0 0 1 * * *").time_zone("Europe/Atlantis"),
        Schedule::new("", TICKS, "0 0 1 * * *"),
    ] {
        assert!(client.set_schedule(&schedule).await.is_err(), "{schedule:?}");
    }
    assert!(client.schedules().await.unwrap().is_empty());
}

pub(crate) async fn a_schedule_keeps_its_state_when_it_is_stored_again(place: Place) {
    let client = place.client().await;
    let schedule = Schedule::new("s", TICKS, "0 0 1 * * *");
    futures::future::try_join_all((0..5).map(|_| client.set_schedule(&schedule))).await.unwrap();
    client.pause_schedule("s").await.unwrap();
    let before = client.schedules().await.unwrap();
    assert_eq!(before.len(), 1);
    client.set_schedule(&Schedule::new("s", TICKS, "0 0 2 * * *")).await.unwrap();
    let after = client.schedules().await.unwrap().remove(0);
    assert!(after.paused);
    assert_eq!((after.cron.as_str(), &after.id), ("0 0 2 * * *", &before[0].id));
}
