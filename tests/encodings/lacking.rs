//! Characters that the database's encoding lacks, in errors and in what is added.

use std::sync::Arc;
use std::time::Duration;

use backfill::error::FailureKind;
use backfill::storage::{ClaimRef, ClaimRequest, ClaimedJob, JobFilter, Outcome, Registration, Settlement, WorkerId};
use backfill::{BackfillClient, Error, JobSpec};

use crate::support::ask;
use crate::{database_in, schema_in};

/// A job that is claimed, of a worker that holds it.
async fn claimed(client: &BackfillClient) -> (Arc<WorkerId>, ClaimedJob) {
    client.add(JobSpec::new("t", ())).await.expect("add");
    let worker = Arc::new(WorkerId::random());
    assert!(client.storage().consumer().register(&Registration::new(&worker, &[])).await.expect("register"));
    let request = ["t".to_owned()];
    let mut jobs =
        client.storage().consumer().claim(&ClaimRequest::new(&worker, &request, 1)).await.expect("claim").jobs;
    (worker, jobs.remove(0))
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_text_keeps_all_but_the_characters_that_the_encoding_lacks() {
    let text = "caf\u{e9} \u{20ac}5 \u{1f980} \u{65e5}\u{672c}\0";
    for (encoding, stored) in [
        ("LATIN1", "caf\u{e9} ?5 ? ???"),
        ("WIN1252", "caf\u{e9} \u{20ac}5 ? ???"),
        ("EUC_JP", "caf\u{e9} ?5 ? \u{65e5}\u{672c}?"),
        ("UTF8", "caf\u{e9} \u{20ac}5 \u{1f980} \u{65e5}\u{672c}\u{fffd}"),
    ] {
        let (client, _) = schema_in(&database_in(encoding).await).await;
        let storage = client.storage().consumer();
        for outcome in [Outcome::failed(text.to_owned(), Duration::from_secs(60)), Outcome::dead(text.to_owned())] {
            let (worker, job) = claimed(&client).await;
            let settlement = Settlement::new(ClaimRef::of(&job), outcome);
            // Beside one that is done, which must not suffer for it.
            let (_, done) = (&worker, client.add(JobSpec::new("t", ())).await.expect("add"));
            let written = storage.settle(&worker, &[settlement]).await.expect("settle");
            assert_eq!(written.applied, [job.id], "{encoding}");
            let read =
                storage.require_inspect().expect("inspect").job(job.id).await.expect("read").expect("it is there");
            assert_eq!(read.last_error.as_deref(), Some(stored), "{encoding}");
            client.complete(&[done.id]).await.expect("complete");
        }
        let waiting = client.add(JobSpec::new("t", ())).await.expect("add");
        let failed = client.discard(&[waiting.id], text).await.expect("discard");
        assert_eq!(failed[0].last_error.as_deref(), Some(stored), "{encoding}");
        let run = WorkerId::random();
        assert!(storage.register(&Registration::new(&run, &[])).await.expect("register"));
        let mut moved = waiting.clone();
        moved.last_error = Some(text.replace('\0', "\u{fffd}"));
        assert_eq!(
            storage.require_transfer().expect("transfer").import(&run, "move-1", &[moved]).await.expect("import"),
            [waiting.id]
        );
        let errors: Vec<_> =
            client.jobs(&JobFilter::new()).await.expect("jobs").into_iter().map(|job| job.last_error).collect();
        assert_eq!(errors.iter().filter(|error| error.as_deref() == Some(stored)).count(), errors.len(), "{encoding}");
    }
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_encoding_lacks_is_refused_at_the_add_and_harms_nothing_else() {
    let pool = database_in("LATIN1").await;
    let (client, schema) = schema_in(&pool).await;
    client.add(JobSpec::new("t", "caf\u{e9}")).await.expect("its name is known");
    let euro = "\u{20ac}";
    let specs = || {
        [
            JobSpec::new("t", euro),
            JobSpec::new(euro, ()),
            JobSpec::new("t", ()).key(euro),
            JobSpec::new("t", ()).serial_queue(euro),
            JobSpec::new("t", ()).flag(euro),
        ]
    };
    for (alone, spec) in specs().into_iter().zip(specs()) {
        let error = client.add(alone).await.expect_err("refused");
        assert!(
            matches!(error, Error::Storage { kind: FailureKind::Refused, .. })
                && !error.is_transient()
                && error.is_refusal(),
            "{error:?}"
        );
        let told = error.to_string();
        assert!(told.contains("LATIN1") && told.contains("0xe2 0x82 0xac"), "{told}");
        client.add_many([JobSpec::new("t", ()), spec]).await.expect_err("refused");
    }
    assert_eq!(ask(&pool, &schema, "select count(*) from S._private_jobs").await, "1");
    // Those who meet it are not told of it.
    let meeting: Vec<_> = (0..40)
        .map(|n| {
            let client = client.clone();
            let payload = if n % 8 == 0 { euro.to_owned() } else { n.to_string() };
            tokio::spawn(async move { client.add(JobSpec::new("t", payload)).await.is_ok() })
        })
        .collect();
    let mut stored = 0;
    for added in meeting {
        stored += u32::from(added.await.expect("no panic"));
    }
    assert_eq!(stored, 35);
}
