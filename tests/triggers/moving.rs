//! Moving jobs to a place where a trigger leaves rows out.

use backfill::storage::Registration;
use backfill::{Error, Job};
use chrono::Utc;

use crate::support::client;
use crate::{file_with, trigger};

/// What is not there must not be deleted where it came from.
#[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_into_a_place_that_leaves_rows_out_says_so_and_brings_nothing() {
    let job = |id: i64| {
        let mut job = Job::new(id, "t", backfill::Payload::empty(), Utc::now());
        job.priority = backfill::Priority(i16::try_from(id).expect("small"));
        job
    };
    let (postgres, pool, schema) = client().await;
    trigger(&pool, &schema, "if new.priority = 2 then return null; end if; return new;").await;
    let (_directory, file, _) = file_with(
        "create trigger t before insert on backfill_jobs when new.priority = 2 begin select raise(ignore); end",
    )
    .await;
    for client in [postgres, file] {
        let storage = client.storage().consumer();
        let run = backfill::storage::WorkerId::random();
        assert!(storage.register(&Registration::new(&run, &[])).await.expect("register"));
        let error = storage
            .require_transfer()
            .expect("transfer")
            .import(&run, "move-1", &[job(1), job(2), job(3)])
            .await
            .expect_err("one is left out");
        assert!(matches!(error, Error::LeftOut { jobs: 1, of: 3, .. }), "{error:?}");
        assert_eq!(client.counts().await.expect("counts").total(), 0);
        assert_eq!(
            storage
                .require_transfer()
                .expect("transfer")
                .import(&run, "move-1", &[job(1), job(3)])
                .await
                .expect("import"),
            [1.into(), 3.into()]
        );
    }
}
