//! Batches: each is stored whole and in order, or not at all.

use std::collections::HashSet;

use backfill::{JobSpec, Payload};

use crate::support::{ask, client};

#[tokio::test]
async fn a_batch_of_100_000_is_paired_with_its_inputs_and_stored_whole() {
    let (client, pool, schema) = client().await;
    let spec = |n: usize| {
        let spec = JobSpec::new(format!("task{}", n % 13), n).priority([0_i16, 1, 2, 3, 4][n % 5]);
        match n % 10 {
            0 => spec.key(format!("key{n}")),
            1 => spec.serial_queue(format!("queue{}", n % 97)),
            _ => spec,
        }
    };
    let stored = client.add_many((0..100_000).map(spec)).await.expect("add");
    assert_eq!(stored.len(), 100_000);
    for (n, job) in stored.iter().enumerate() {
        assert_eq!(
            (job.payload.as_str(), job.task.as_str()),
            (n.to_string().as_str(), format!("task{}", n % 13).as_str())
        );
        assert_eq!(job.key, (n % 10 == 0).then(|| format!("key{n}")));
    }
    assert_eq!(stored.iter().map(|job| job.id).collect::<HashSet<_>>().len(), 100_000);
    // One transaction: one moment of creation, and the order of the input is the order of the times.
    assert_eq!(ask(&pool, &schema, "select count(distinct created_at) from S._private_jobs").await, "1");
    assert!(stored.windows(2).all(|pair| pair[0].run_at < pair[1].run_at));
    assert_eq!(ask(&pool, &schema, "select count(*) from S._private_jobs where run_at > now()").await, "0");
    // Names were not tried again and again, which would burn ids of a 32-bit sequence.
    assert_eq!(ask(&pool, &schema, "select max(id) from S._private_tasks").await, "13");
}

#[tokio::test]
async fn a_batch_that_fails_stores_nothing() {
    let (client, ..) = client().await;
    let nul = |key: &str| JobSpec::with_payload("t", Payload::from_json(r#"["\u0000"]"#).expect("json")).key(key);
    client.add(nul("k")).await.expect("as text it is fine");
    let batch = (0..7_000).map(|n| JobSpec::new("t", n)).chain([nul("k")]);
    let error = client.add_many(batch).await.expect_err("joining arrays goes through jsonb, which cannot hold a NUL");
    assert!(!error.is_transient(), "{error}");
    assert_eq!(client.counts().await.expect("counts").total(), 1);
}
