//! Storing jobs.

use chrono::{DateTime, Utc};

use super::state::{State, is_available};
use crate::job::{Job, JobKeyMode, NewJob};

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
            if new.key_mode == JobKeyMode::UnsafeDedupe {
                let kept = self.change(id, |job| {
                    job.revision += 1;
                    job.updated_at = now;
                });
                if let Some(job) = kept {
                    return job;
                }
            } else if self.jobs.get(&id).is_some_and(is_available) {
                let updated = self.change(id, |job| new.replace(job, now));
                if let Some(job) = updated {
                    return job;
                }
            } else {
                self.take_key(id, now);
            }
        }
        let job = new.stored(self.next_id(), new.due(now), now);
        self.jobs.insert(job.id, job.clone());
        self.index(&job);
        job
    }
}
