//! Cases about the gate of crontabs.

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use tokio::task::JoinSet;

use super::{Subject, TASK, add_one, inspect, read, schedules, spec};
use crate::job::JobSpec;
use crate::job::limits::DEFAULT_MAX_PAYLOAD_BYTES;
use crate::storage::{DueJob, KnownCrontab};

fn due(identifier: &str, spec: JobSpec) -> DueJob {
    let job = spec.check(DEFAULT_MAX_PAYLOAD_BYTES).expect("a case's own spec is valid");
    DueJob { identifier: identifier.to_owned(), job }
}

fn minute(number: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::minutes(30_000_000 + number)
}

async fn known(storage: &Subject, identifier: &str) -> Option<KnownCrontab> {
    schedules(storage).known_crontabs().await.expect("known").into_iter().find(|known| known.identifier == identifier)
}

/// For each identifier and moment one job is added, and none for an older moment after a newer one.
pub async fn an_identifier_gets_one_job_per_moment_and_never_goes_back(storage: Subject) {
    let at = |number| {
        let storage = storage.clone();
        async move {
            let due = [due("a", JobSpec::new(TASK, 1).run_at(minute(number)))];
            schedules(&storage).add_due(minute(number), &due).await.expect("add").remove(0)
        }
    };
    let first = at(5).await.expect("it is added");
    assert_eq!((first.task.as_str(), first.run_at), (TASK, minute(5)));
    assert_eq!(read(&storage, first.id).await.expect("stored").run_at, minute(5));
    assert!(at(5).await.is_none(), "the same moment again");
    assert!(at(4).await.is_none(), "an older moment");
    assert!(at(6).await.is_some(), "the next moment");
    assert_eq!(known(&storage, "a").await.expect("known").last_execution, Some(minute(6)));
    assert_eq!(inspect(&storage).counts().await.expect("counts").total(), 2);
}

/// Each entry is judged alone, and the answers are in the order of the input.
pub async fn entries_of_one_moment_are_judged_one_by_one(storage: Subject) {
    let entry = |name: &str| due(name, JobSpec::new(TASK, name));
    schedules(&storage).add_due(minute(1), &[entry("b")]).await.expect("add");
    let added = schedules(&storage).add_due(minute(1), &[entry("a"), entry("b"), entry("c")]).await.expect("add");
    let payloads: Vec<Option<String>> =
        added.into_iter().map(|job| job.map(|job| job.payload.decode().expect("text"))).collect();
    assert_eq!(payloads, [Some("a".to_owned()), None, Some("c".to_owned())]);
    assert!(schedules(&storage).add_due(minute(1), &[]).await.expect("nothing").is_empty());
}

/// Two entries with one key: the second finds the first one's job there.
pub async fn entries_that_share_a_key_follow_each_other(storage: Subject) {
    let keyed = |name: &str| due(name, JobSpec::new(TASK, name).key("k"));
    let added = schedules(&storage).add_due(minute(1), &[keyed("a"), keyed("b"), due("c", spec())]).await.expect("add");
    let ids: Vec<_> = added.iter().map(|job| job.as_ref().expect("added").id).collect();
    assert!(ids[0] == ids[1] && ids[1] != ids[2], "{ids:?}");
    let job = read(&storage, ids[0]).await.expect("stored");
    assert_eq!((job.payload.as_str(), job.revision), ("\"b\"", 1));
    // A job that waits already is replaced in the same way.
    let waiting = add_one(&storage, JobSpec::new(TASK, "old").key("other")).await;
    let added =
        schedules(&storage).add_due(minute(2), &[due("a", JobSpec::new(TASK, "new").key("other"))]).await.expect("add");
    assert_eq!(added[0].as_ref().map(|job| job.id), Some(waiting.id));
}

/// Registering keeps what is known, and remembers since when.
pub async fn what_is_known_of_an_entry_stays(storage: Subject) {
    let now = Utc::now().trunc_subsecs(6);
    schedules(&storage).register_crontabs(&["a".to_owned(), "b".to_owned()], now).await.expect("register");
    schedules(&storage).add_due(minute(1), &[due("b", spec())]).await.expect("add");
    let later = now + TimeDelta::hours(1);
    schedules(&storage).register_crontabs(&["b".to_owned(), "c".to_owned()], later).await.expect("register");
    let expected = [
        KnownCrontab::new("a".to_owned(), now, None),
        KnownCrontab::new("b".to_owned(), now, Some(minute(1))),
        KnownCrontab::new("c".to_owned(), later, None),
    ];
    assert_eq!(schedules(&storage).known_crontabs().await.expect("known"), expected);
    // An entry that nobody registered is known from the moment of its first job.
    schedules(&storage).add_due(minute(7), &[due("d", spec())]).await.expect("add");
    assert_eq!(known(&storage, "d").await, Some(KnownCrontab::new("d".to_owned(), minute(7), Some(minute(7)))));
}

/// Eight schedulers, fifty moments, three entries: one job for each entry and moment.
pub async fn many_schedulers_add_one_job_each_time(storage: Subject) {
    let mut schedulers = JoinSet::new();
    for _ in 0..8 {
        let storage = storage.clone();
        schedulers.spawn(async move {
            for number in 0..50 {
                let jobs = ["a", "b", "c"].map(|name| due(name, JobSpec::new(TASK, number).run_at(minute(number))));
                schedules(&storage).add_due(minute(number), &jobs).await.expect("add");
            }
        });
    }
    schedulers.join_all().await;
    // A scheduler that lags behind the others adds nothing for a moment that they have passed, so no more than one each;
    // and the one that was first had all of its own.
    assert_eq!(inspect(&storage).counts().await.expect("counts").total(), 150);
}
