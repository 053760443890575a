//! Storing jobs.

use chrono::{DateTime, Utc};

use super::state::State;
use crate::job::{Job, NewJob};

impl State {
    pub(super) fn add(&mut self, jobs: &[NewJob]) -> Vec<Job> {
        // Each a moment later than the one before, so that a batch keeps its order.
        jobs.iter()
            .map(|new| {
                let now = self.now();
                self.add_one(new, now)
            })
            .collect()
    }

    pub(super) fn add_one(&mut self, new: &NewJob, now: DateTime<Utc>) -> Job {
        self.tasks.insert(new.task.clone());
        if let Some(queue) = &new.queue {
            self.queues.entry(queue.clone()).or_default();
        }
        let holder = new.key.as_ref().and_then(|key| self.by_key.get(key)).copied();
        if let Some(id) = holder {
            let mut is_answer = false;
            let met = self.change(id, |job| is_answer = new.meets(job, now));
            if let Some(job) = met.filter(|_| is_answer) {
                return job;
            }
        }
        let job = new.stored(self.next_id(), new.due(now), now);
        self.jobs.insert(job.id, job.clone());
        self.index(&job);
        job
    }
}
