//! The end of a case: what must hold whatever happened.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};

use super::{Outcome, Scene, TIMEOUT, sql};

/// How long it may take to get over a fault: a lease and a look, and the jobs in line before those that were freed.
const RECOVERY: Duration = Duration::from_secs(45);

impl Scene {
    /// Waits until every accepted job is done, ends the workers, and checks what must hold whatever happened.
    pub async fn end(mut self) -> Outcome {
        let begun = Instant::now();
        sql(&self.witness, "analyze told").await;
        loop {
            let left = self.left().await;
            if left == 0 && self.missing().await == 0 {
                break;
            }
            assert!(
                begun.elapsed() < TIMEOUT,
                "accepted = finished: {} of {} accepted jobs have not finished, and {left} are left in the table",
                self.missing().await,
                self.accepted.len()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        for name in self.names() {
            // One that has only just begun does not know of signals yet.
            let has_begun = format!("exists (select from told where worker = '{}')", name.replace('\'', "''"));
            self.until(&format!("a word of {name}"), &has_begun).await;
            self.signal(&name, "TERM").await;
        }
        for name in self.names() {
            self.ended(&name).await;
        }
        let again = self
            .count(
                "select count(*) from told later join told acknowledged using (job)
                 where later.what = 'start' and acknowledged.what = 'acknowledged' and later.at > acknowledged.at",
            )
            .await;
        assert_eq!(again, 0, "a finished job is never started again after its settlement was acknowledged");
        let (hit, moments): (Vec<&String>, Vec<DateTime<Utc>>) = self.hit.iter().map(|(name, at)| (name, *at)).unzip();
        // A fault hits a job at a worker that has started it and has no word yet that its result is written. An attempt that fails by
        // itself is one more.
        let undue: Vec<(i64, i64, i64)> = sqlx::query_as(
            "with fault as (select * from unnest($1::text[], $2::timestamptz[]) as fault (worker, at)),
             again as (
               select job, count(*) filter (where what = 'start') as starts, count(*) filter (where what = 'failed') as failed
               from told group by job having count(*) filter (where what = 'start') > 1
             )
             select again.job, again.starts, allowed.extra
             from again
             cross join lateral (
               select again.failed + count(*) as extra from fault
               where exists (
                   select from told begun
                   where begun.job = again.job and begun.what = 'start' and begun.worker = fault.worker and begun.at <= fault.at
                 )
                 and not exists (
                   select from told written
                   where written.job = again.job and written.what = 'acknowledged' and written.worker = fault.worker
                     and written.at <= fault.at
                 )
             ) as allowed
             where again.starts > 1 + allowed.extra
             limit 10",
        )
        .bind(hit)
        .bind(moments)
        .fetch_all(&self.witness)
        .await
        .expect("the witness answers");
        assert_eq!(undue, [], "at most one extra start per fault that hit the job: job, starts, allowed extra starts");
        assert_eq!(
            self.ask("select count(*) from graphile_worker._private_job_queues where locked_by is not null").await,
            0,
            "no queue is left locked"
        );
        let starts: i64 = sqlx::query_scalar(
            "select count(*) from told where what = 'start' and job in (select unnest($1::bigint[]))",
        )
        .bind(&self.accepted)
        .fetch_one(&self.witness)
        .await
        .expect("the witness answers");
        let recovery = match self.recovered {
            Some(measured) => Some(measured),
            None => self.recovery().await,
        };
        assert!(recovery.is_none_or(|time| time < RECOVERY), "work resumes in seconds: {recovery:?}");
        let jobs = i64::try_from(self.accepted.len()).expect("few jobs");
        // The logs are of use only when something did not hold.
        for log in &self.logs {
            let _ = std::fs::remove_file(log);
        }
        Outcome { jobs, starts, faults: self.faults, recovery, remark: self.remark }
    }

    /// How many jobs are in the table that may still run.
    async fn left(&self) -> i64 {
        self.ask(
            "select count(*) from graphile_worker._private_jobs where locked_at is not null or attempts < max_attempts",
        )
        .await
    }

    /// How many accepted jobs have not finished.
    async fn missing(&self) -> i64 {
        sqlx::query_scalar(
            "select count(*) from unnest($1::bigint[]) as job (job)
             where not exists (select from told where told.job = job.job and what = 'finish')",
        )
        .bind(&self.accepted)
        .fetch_one(&self.witness)
        .await
        .expect("the witness answers")
    }

    /// How long it took to get over the faults: until the first result was written after an outage (jobs run on without a
    /// database), and until the last job of each killed worker was started anew.
    async fn recovery(&self) -> Option<Duration> {
        let mut longest: Option<f64> = None;
        if let Some(over) = self.outage_over {
            let first: Option<f64> = sqlx::query_scalar(
                "select extract(epoch from min(at) - $1)::float8 from told where what = 'acknowledged' and at > $1",
            )
            .bind(over)
            .fetch_one(&self.witness)
            .await
            .expect("the witness answers");
            longest = first;
        }
        for (name, moment) in &self.killed {
            let last: Option<f64> = sqlx::query_scalar(
                "select extract(epoch from max(next) - $2)::float8 from (
                   -- One that dies with a second worker waits longer, on purpose, whether it had told its start there or not.
                   select (select min(anew.at) from told anew where anew.job = begun.job and anew.what = 'start' and anew.attempt = 2) as next
                   from told begun
                   where begun.what = 'start' and begun.worker = $1 and begun.attempt = 1
                     and not exists (select from told ended where ended.job = begun.job and ended.worker = $1 and ended.what = 'finish')
                 ) as t",
            )
            .bind(name)
            .bind(moment)
            .fetch_one(&self.witness)
            .await
            .expect("the witness answers");
            longest = [longest, last].into_iter().flatten().reduce(f64::max);
        }
        longest.map(|seconds| Duration::from_secs_f64(seconds.max(0.0)))
    }
}
