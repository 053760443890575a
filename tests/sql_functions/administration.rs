//! The functions that change, release and remove jobs.

use crate::pair::Pair;

#[tokio::test]
async fn administrative_functions_on_jobs_in_every_state() {
    let mut pair = Pair::new().await;
    let calls = [
        "select * from S.complete_jobs(array[1,2,3,4,5,6,99]::bigint[])",
        "select * from S.complete_jobs('{}')",
        "select * from S.complete_jobs(null)",
        "select * from S.permanently_fail_jobs(array[1,2,3,4,5,6,99]::bigint[])",
        "select * from S.permanently_fail_jobs(array[1,2,3,4,5,6,99]::bigint[], 'because')",
        "select * from S.permanently_fail_jobs(array[1]::bigint[], '')",
        "select * from S.reschedule_jobs(array[1,2,3,4,5,6,99]::bigint[], run_at := '2100-01-01T00:00:00Z')",
        "select * from S.reschedule_jobs(array[1,2,3,4,5,6,99]::bigint[], null, 0, 0, 9)",
        "select * from S.reschedule_jobs(array[1,2]::bigint[], attempts := -5)",
        "select * from S.reschedule_jobs(array[1,2]::bigint[])",
        "select * from S.remove_job('k1')",
        "select * from S.remove_job('k2')",
        "select * from S.remove_job('k3')",
        "select * from S.remove_job('k4')",
        "select * from S.remove_job('nobody')",
        "select * from S.remove_job(null)",
        "select S.force_unlock_workers(array['w1', 'nobody'])::text as t",
        "select S.force_unlock_workers('{}')::text as t",
        "select S.force_unlock_workers(null)::text as t",
        "select * from S.jobs",
    ];
    for call in calls {
        pair.set(
            "truncate S._private_jobs restart identity;
             select S.add_job('a', job_key := 'k1', priority := 4);
             select S.add_job('a', job_key := 'k2', queue_name := 'q1');
             select S.add_job('a', job_key := 'k3', queue_name := 'q2');
             select S.add_job('a', job_key := 'k4');
             select S.add_job('a');
             select S.add_job('a', queue_name := 'q3');
             update S._private_jobs set attempts = 1, locked_at = '2100-01-01T00:00:00Z', locked_by = 'w1' where id = 2;
             update S._private_jobs set attempts = 1, locked_at = '2001-01-01T00:00:00Z', locked_by = 'w2' where id = 3;
             update S._private_jobs set attempts = max_attempts, last_error = 'e' where id = 4;
             update S._private_jobs set attempts = 3, last_error = 'e' where id = 5;
             update S._private_job_queues set locked_at = '2100-01-01T00:00:00Z', locked_by = 'w1' where queue_name = 'q1';
             update S._private_job_queues set locked_at = '2001-01-01T00:00:00Z', locked_by = 'w2' where queue_name = 'q2'",
        )
        .await;
        pair.same(call).await;
    }
}
