//! Jobs that a trigger changes or leaves out when they are added.

use backfill::storage::JobFilter;
use backfill::{BackfillClient, Error, Job, JobKeyMode, JobSpec, Queue};
use chrono::{TimeDelta, Utc};

use crate::support::{ask, client, sql};
use crate::{file_with, trigger};

/// Every way to add jobs: a name, and what was answered.
async fn add_in_every_way(client: &BackfillClient) -> Vec<(&'static str, backfill::Result<Vec<Job>>)> {
    let plain = |n: i32| JobSpec::new("t", n);
    let keyed = |n: i32| JobSpec::new("t", n).key(format!("k{n}"));
    let mut ways = Vec::new();
    let one = |added: backfill::Result<Job>| added.map(|job| vec![job]);
    ways.push(("one of a new task", one(client.add(JobSpec::new("new", 1)).await)));
    ways.push(("one", one(client.add(plain(2)).await)));
    ways.push(("one in a queue", one(client.add(plain(3).queue(Queue::serial("q"))).await)));
    ways.push((
        "one with flags and a time",
        one(client.add(plain(4).flag("f").run_at(Utc::now() + TimeDelta::hours(1))).await),
    ));
    for (name, mode, n) in [
        ("one with a key", JobKeyMode::Replace, 5),
        ("one with a key that keeps its time", JobKeyMode::PreserveRunAt, 6),
        ("one with a key that is taken once", JobKeyMode::UnsafeDedupe, 7),
    ] {
        ways.push((name, one(client.add(keyed(n).key_mode(mode)).await)));
        ways.push((name, one(client.add(keyed(n).key_mode(mode)).await)));
    }
    ways.push(("a batch", client.add_many((10..15).map(plain)).await));
    ways.push((
        "a batch in queues",
        client.add_many((15..20).map(|n| plain(n).queue(Queue::serial(format!("q{n}"))))).await,
    ));
    ways.push(("a batch with keys", client.add_many((20..25).map(keyed)).await));
    ways.push(("a mixed batch", client.add_many((25..30).map(|n| if n % 2 == 0 { plain(n) } else { keyed(n) })).await));
    let mut transaction = client.postgres().expect("PostgreSQL").pool().begin().await.expect("begin");
    ways.push(("one in a transaction", one(client.add(plain(30)).within(&mut *transaction).await)));
    ways.push(("a batch in a transaction", client.add_many((31..34).map(plain)).within(&mut *transaction).await));
    transaction.commit().await.expect("commit");
    let meeting: Vec<_> = (40..72)
        .map(|n| {
            let client = client.clone();
            tokio::spawn(async move { client.add(JobSpec::new("t", n)).await })
        })
        .collect();
    for added in meeting {
        ways.push(("one of many that meet", one(added.await.expect("no panic"))));
    }
    ways
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_a_trigger_changed_is_told_as_it_was_stored() {
    for body in [
        "return new;",
        "new.run_at := '2100-01-01'; return new;",
        "new.flags := '{\"held\":true}'; new.priority := 7; new.max_attempts := 3; return new;",
        "new.payload := '{\"changed\": true}'; return new;",
        "insert into S._private_job_queues (queue_name) values ('other') on conflict do nothing;
         new.job_queue_id := (select id from S._private_job_queues where queue_name = 'other'); return new;",
        "insert into S._private_tasks (identifier) values ('other') on conflict do nothing;
         new.task_id := (select id from S._private_tasks where identifier = 'other'); return new;",
        "new.key := new.key || random(); return new;",
        "new.key := null; return new;",
        "new.key := coalesce(new.key, random()::text); return new;",
        "new.attempts := new.max_attempts; return new;",
        "new.locked_at := now(); new.locked_by := 'somebody'; return new;",
    ] {
        let (client, pool, schema) = client().await;
        trigger(&pool, &schema, &body.replace("S.", &format!("\"{schema}\"."))).await;
        let mut told = Vec::new();
        for (way, added) in add_in_every_way(&client).await {
            for job in added.unwrap_or_else(|error| panic!("{way}, {body}: {error}")) {
                let read = client.job(job.id).await.expect("read").expect("it is there");
                // (What took its key since has changed the earlier one.)
                if read.updated_at == job.updated_at {
                    assert_eq!(job, read, "{way}, {body}");
                }
                told.push(job.id);
            }
        }
        told.sort_unstable();
        told.dedup();
        let mut stored: Vec<_> =
            client.jobs(&JobFilter::new().limit(1_000)).await.expect("jobs").iter().map(|job| job.id).collect();
        stored.sort_unstable();
        assert_eq!(stored, told, "{body}: all that is stored was told");
    }
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_a_trigger_leaves_out_is_an_error_that_says_so() {
    let (client, pool, schema) = client().await;
    trigger(&pool, &schema, "return null;").await;
    for (way, added) in add_in_every_way(&client).await {
        let error = added.expect_err(way);
        assert!(matches!(error, Error::LeftOut { .. }) && !error.is_transient(), "{way}: {error:?}");
        assert!(error.to_string().contains("a trigger on the jobs table left"), "{error}");
    }
    assert_eq!(ask(&pool, &schema, "select count(*) from S._private_jobs").await, "0");

    // Of a batch all or none; and others are not told of it.
    trigger(&pool, &schema, "if new.payload::text = '13' then return null; end if; return new;").await;
    let specs = |key: bool| {
        (10..20).map(move |n| if key { JobSpec::new("t", n).key(format!("k{n}")) } else { JobSpec::new("t", n) })
    };
    for keyed in [false, true] {
        let error = client.add_many(specs(keyed)).await.expect_err("one is left out");
        assert!(matches!(&error, Error::LeftOut { jobs: 1, of: 10, task } if task == "t"), "{error:?}");
    }
    assert_eq!(ask(&pool, &schema, "select count(*) from S._private_jobs").await, "0");
    let meeting: Vec<_> = specs(false)
        .map(|spec| {
            let client = client.clone();
            tokio::spawn(async move { client.add(spec).await })
        })
        .collect();
    let mut left_out = 0;
    for added in meeting {
        match added.await.expect("no panic") {
            Ok(_) => {}
            Err(Error::LeftOut { jobs: 1, of: 1, .. }) => left_out += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(left_out, 1);
    assert_eq!(ask(&pool, &schema, "select count(*) from S._private_jobs").await, "9");

    // A job whose key would have been taken keeps it.
    trigger(&pool, &schema, "return new;").await;
    let running = client.add(JobSpec::new("t", 1).key("k")).await.expect("add");
    sql(&pool, &schema, "update S._private_jobs set locked_at = now(), locked_by = 'w', attempts = 1 where key = 'k'")
        .await;
    trigger(&pool, &schema, "return null;").await;
    client.add(JobSpec::new("t", 2).key("k")).await.expect_err("left out");
    let read = client.job(running.id).await.expect("read").expect("it is there");
    assert_eq!((read.key.as_deref(), read.attempts), (Some("k"), 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_file_a_changed_job_is_told_as_it_was_stored_and_a_row_left_out_is_an_error() {
    let (_directory, client, _) = file_with(
        "create trigger t after insert on backfill_jobs begin
           update backfill_jobs set priority = 7, flags = '[\"f\"]', run_at = 4102444800000000 where id = new.id; end",
    )
    .await;
    let keyed = |n: i32| JobSpec::new("t", n).key(format!("k{n}"));
    let mut told =
        client.add_many((0..5).map(|n| if n % 2 == 0 { keyed(n) } else { JobSpec::new("t", n) })).await.expect("add");
    told.push(client.add(JobSpec::new("t", 6)).await.expect("add"));
    told.push(client.add(keyed(7)).await.expect("add"));
    for job in told {
        assert_eq!((job.priority.0, &job.flags[..]), (7, &["f".to_owned()][..]));
        assert_eq!(client.job(job.id).await.expect("read"), Some(job));
    }

    let (_directory, client, pool) = file_with(
        "create trigger t before insert on backfill_jobs when new.payload = '13' begin select raise(ignore); end;
         create trigger u before insert on backfill_jobs when new.payload = '14' begin select raise(abort, 'unlucky'); end;",
    )
    .await;
    for batch in [(10..14).map(|n| JobSpec::new("t", n)).collect(), vec![keyed(13)], vec![keyed(1), keyed(13)]] {
        let error = client.add_many(batch).await.expect_err("left out");
        assert!(matches!(error, Error::LeftOut { jobs: 1, .. }) && !error.is_transient(), "{error:?}");
    }
    let count = "select count(*) from backfill_jobs";
    assert_eq!(sqlx::query_scalar::<_, i64>(count).fetch_one(&pool).await.expect("count"), 0);
    let meeting: Vec<_> = (0..200)
        .map(|n| {
            let client = client.clone();
            tokio::spawn(async move { (n % 20, client.add(JobSpec::new("t", n % 20)).await) })
        })
        .collect();
    for added in meeting {
        match added.await.expect("no panic") {
            (13, added) => assert!(matches!(added, Err(Error::LeftOut { .. })), "{added:?}"),
            (14, added) => assert!(added.expect_err("refused").to_string().contains("unlucky")),
            (_, added) => drop(added.expect("nobody is told another's error")),
        }
    }
    assert_eq!(sqlx::query_scalar::<_, i64>(count).fetch_one(&pool).await.expect("count"), 180);
}
