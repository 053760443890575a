//! Adding jobs, and which of them have to finish.

use backfill::JobSpec;

use super::Scene;
use crate::worker::{How, Work};

impl Scene {
    pub async fn add(&mut self, count: usize, ms: u64) {
        self.add_how(count, ms, How::Sleep).await;
    }

    pub async fn add_how(&mut self, count: usize, ms: u64, how: How) {
        let specs = (0..count).map(|_| JobSpec::new("work", Work { ms, how, pad: String::new() }));
        let added = self.client.add_many(specs).await.expect("add");
        self.accept(added.into_iter().map(|job| job.id.number()));
    }

    /// Jobs in serial queues.
    pub async fn add_serial(&mut self, count: usize, queues: usize, ms: u64) {
        let specs = (0..count).map(|n| {
            JobSpec::new("work", Work { ms, how: How::Sleep, pad: String::new() })
                .serial_queue(format!("q{}", n % queues))
        });
        let added = self.client.add_many(specs).await.expect("add");
        self.accept(added.into_iter().map(|job| job.id.number()));
    }

    /// Jobs of another task, which take no time.
    pub async fn add_small(&mut self, count: usize, task: &str, attempts: u32) {
        for begun in (0..count).step_by(10_000) {
            let specs = (begun..count.min(begun + 10_000)).map(|_| JobSpec::new(task, ()).max_attempts(attempts));
            let added = self.client.add_many(specs).await.expect("add");
            self.accept(added.into_iter().map(|job| job.id.number()));
        }
    }

    pub fn accept(&mut self, jobs: impl IntoIterator<Item = i64>) {
        self.accepted.extend(jobs);
    }

    pub fn disown(&mut self, jobs: &[i64]) {
        self.accepted.retain(|job| !jobs.contains(job));
    }

    /// Jobs with a number of attempts of their own.
    pub async fn add_with(&mut self, count: usize, ms: u64, how: How, attempts: u32) -> Vec<i64> {
        let specs =
            (0..count).map(|_| JobSpec::new("work", Work { ms, how, pad: String::new() }).max_attempts(attempts));
        let added: Vec<i64> =
            self.client.add_many(specs).await.expect("add").into_iter().map(|job| job.id.number()).collect();
        self.accept(added.iter().copied());
        added
    }
}
