//! Single adds of one process that meet: they are stored together, and none depends on another.

use std::time::Duration;

use backfill::JobSpec;
use futures::StreamExt;

use crate::support::{ask, client, soon, sql};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn single_adds_that_meet_are_stored_together_and_answered_one_by_one() {
    let (client, pool, schema) = client().await;
    for task in 0..7 {
        client.add(JobSpec::new(format!("t{task}"), ()).key("k")).await.expect("its name is known");
    }
    client.remove("k").await.expect("remove");
    let adding = (0..500).map(|n| {
        let client = client.clone();
        let spec = JobSpec::new(format!("t{}", n % 7), n).priority(3).flag(format!("f{}", n % 2));
        tokio::spawn(async move {
            (n, client.add(if n % 3 == 0 { spec.serial_queue("q") } else { spec }).await.expect("add"))
        })
    });
    for added in adding.collect::<Vec<_>>() {
        let (n, job) = added.await.expect("no panic");
        assert_eq!(job, client.job(job.id).await.expect("read").expect("stored"), "it is answered as it is stored");
        assert_eq!((job.payload.as_str(), job.task), (n.to_string().as_str(), format!("t{}", n % 7)));
    }
    assert_eq!(ask(&pool, &schema, "select count(*) from S._private_jobs").await, "500");
    let transactions = "select count(distinct xmin::text) < 400 from S._private_jobs";
    assert_eq!(ask(&pool, &schema, transactions).await, "true", "many share a transaction");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_add_that_is_refused_harms_none_of_those_it_is_stored_with() {
    let (client, pool, schema) = client().await;
    let refuse = "create function S.refuse() returns trigger language plpgsql as $f$ begin
                    if new.payload::text = '13' then raise exception 'unlucky'; end if; return new;
                  end $f$;
                  create trigger refuse after insert on S._private_jobs for each row execute function S.refuse()";
    sql(&pool, &schema, refuse).await;
    let known = client.add(JobSpec::new("t", ())).await.expect("its name is known");
    client.complete(&[known.id]).await.expect("complete");
    let adding = (0..200).map(|n| {
        let client = client.clone();
        tokio::spawn(async move { client.add(JobSpec::new("t", n % 40)).await })
    });
    let mut refused = 0;
    for added in adding.collect::<Vec<_>>() {
        match added.await.expect("no panic") {
            Ok(job) => assert_ne!(job.payload.as_str(), "13"),
            Err(error) => {
                assert!(error.to_string().contains("unlucky"), "{error}");
                refused += 1;
            }
        }
    }
    assert_eq!(refused, 5);
    assert_eq!(ask(&pool, &schema, "select count(*) from S._private_jobs").await, "195");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn adds_that_are_given_up_leave_nobody_waiting() {
    let (client, ..) = client().await;
    client.add(JobSpec::new("t", ())).await.expect("its name is known");
    for round in 0..50 {
        let mut adding: Vec<_> = (0..20)
            .map(|n| {
                let client = client.clone();
                tokio::spawn(async move { client.add(JobSpec::new("t", n)).await })
            })
            .collect();
        // Not a wait: in each round they are given up a little later on their way.
        tokio::time::sleep(Duration::from_micros(round * 20)).await;
        for given_up in adding.drain(..10) {
            given_up.abort();
        }
        for kept in adding {
            soon("it is stored", kept).await.expect("no panic").expect("add");
        }
    }
}

#[tokio::test]
async fn an_add_that_waits_for_another_transaction_holds_no_other_add_up() {
    let (client, pool, _) = client().await;
    for known in ["t", "u"] {
        client.add(JobSpec::new(known, ())).await.expect("add");
    }
    let mut first_user = pool.begin().await.expect("begin");
    client.add(JobSpec::new("new", ()).serial_queue("new")).within(&mut *first_user).await.expect("add");
    let waiting = |spec: JobSpec| {
        let client = client.clone();
        tokio::spawn(async move { client.add(spec).await })
    };
    let blocked = [waiting(JobSpec::new("new", ())), waiting(JobSpec::new("t", ()).serial_queue("new"))];
    // The first user of the names itself adds other jobs before it commits.
    for _ in 0..20 {
        soon("it is stored", client.add(JobSpec::new("u", ()))).await.expect("add");
    }
    first_user.commit().await.expect("commit");
    for blocked in blocked {
        soon("it is stored too", blocked).await.expect("no panic").expect("add");
    }
}

#[tokio::test]
async fn an_add_that_is_not_polled_holds_no_other_add_up() {
    let (client, ..) = client().await;
    client.add(JobSpec::new("t", ())).await.expect("add");
    let mut adding = futures::stream::iter(0..10).map(|n| client.add(JobSpec::new("t", n)).into_future()).buffered(4);
    while let Some(added) = soon("the next is stored", adding.next()).await {
        added.expect("add");
        soon("it is stored", client.add(JobSpec::new("t", ()))).await.expect("add");
    }
}

#[test]
fn a_runtime_that_ends_while_jobs_are_added_ends() {
    // As a program does that is stopped: what waits to be stored is dropped with the runtime, and so is what would store it.
    let begin =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    for round in 0..40 {
        let runtime = begin();
        let client = runtime.block_on(async {
            let client = client().await.0;
            client.add(JobSpec::new("t", 0)).await.expect("the task is known then");
            client
        });
        for n in 0..20 {
            let client = client.clone();
            runtime.spawn(async move {
                loop {
                    client.add(JobSpec::new("t", n)).await.expect("add");
                }
            });
        }
        // At different points of what they do.
        runtime.block_on(async { tokio::time::sleep(Duration::from_millis(1 + round % 5)).await });
        drop(runtime);
    }
}
