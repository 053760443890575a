//! Asking the witness, the subject and the logs, and waiting for their answers.

use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, PgPool};

use super::{Scene, TIMEOUT, connect, sql};

impl Scene {
    /// Asks the witness for a number.
    pub async fn count(&self, query: &str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(query.to_owned())).fetch_one(&self.witness).await.expect("the witness answers")
    }

    pub async fn started(&self) -> i64 {
        self.count("select count(distinct job) from told where what = 'start'").await
    }

    pub async fn finished(&self) -> i64 {
        self.count("select count(distinct job) from told where what = 'finish'").await
    }

    /// How many of these jobs have never told that they start.
    pub async fn unstarted(&self, jobs: &[i64]) -> i64 {
        sqlx::query_scalar(
            "select count(*) from unnest($1::bigint[]) as job (job)
             where not exists (select from told where told.job = job.job and what = 'start')",
        )
        .bind(jobs)
        .fetch_one(&self.witness)
        .await
        .expect("the witness answers")
    }

    /// How many jobs this worker has started.
    pub async fn started_by(&self, name: &str) -> i64 {
        self.count(&format!("select count(*) from told where what = 'start' and worker = '{name}'")).await
    }

    /// Waits until the witness says so.
    pub async fn until(&self, what: &str, condition: &str) {
        let begun = Instant::now();
        while self.count(&format!("select count(*) from (select where {condition}) as yes")).await == 0 {
            assert!(begun.elapsed() < TIMEOUT, "{what} did not happen within {TIMEOUT:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn until_started(&self, jobs: i64) {
        self.until(
            &format!("the start of {jobs} jobs"),
            &format!("(select count(distinct job) from told where what = 'start') >= {jobs}"),
        )
        .await;
    }

    pub async fn until_finished(&self, jobs: i64) {
        self.until(
            &format!("the end of {jobs} jobs"),
            &format!("(select count(distinct job) from told where what = 'finish') >= {jobs}"),
        )
        .await;
    }

    /// A connection to the subject, not through the proxy.
    pub async fn admin(&self) -> PgPool {
        connect(&self.subject.url(&self.database)).await
    }

    pub async fn sql(&self, text: &str) {
        let admin = self.admin().await;
        sql(&admin, text).await;
        admin.close().await;
    }

    /// Asks the subject for a number.
    pub async fn ask(&self, query: &str) -> i64 {
        let admin = self.admin().await;
        let answer = sqlx::query_scalar(AssertSqlSafe(query.to_owned())).fetch_one(&admin).await.expect("ask");
        admin.close().await;
        answer
    }

    /// Waits until the subject's answer to this query is greater than zero.
    pub async fn until_answered(&self, what: &str, query: &str) {
        let begun = Instant::now();
        while self.ask(query).await == 0 {
            assert!(begun.elapsed() < TIMEOUT, "{what} did not happen within {TIMEOUT:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Whether a worker has logged this.
    pub fn has_logged(&self, text: &str) -> bool {
        self.logs.iter().any(|log| std::fs::read_to_string(log).is_ok_and(|said| said.contains(text)))
    }
}
