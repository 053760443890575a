//! The administrative verbs.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use backfill_core::job::limits::later;
use backfill_core::job::{Job, JobId, Payload};
use backfill_core::storage::{Admin, Cleaned, Cleanup, Reschedule, Storage, clean_error};
use backfill_core::{Error, Result};
use chrono::{DateTime, Utc};

use crate::codec;
use crate::commit::{Commit, TRIES, busy, read_fields, read_kept};
use crate::errors::odd;
use crate::inspect::is_free;
use crate::keys::Key;
use crate::link::Args;
use crate::scripts::CLEANUP;
use crate::{RedisStorage, answer};

/// How many jobs one call changes, at the most: a command has a million arguments at the most.
const MOST: usize = 100_000;
/// How many jobs one part of a sweep has.
const PART: usize = 1_000;

#[async_trait]
impl Admin for RedisStorage {
    async fn remove(&self, key: &str) -> Result<Option<Job>> {
        const ACTION: &str = "remove a job";
        for _ in 0..TRIES {
            let found = read_fields(ACTION, &self.link, Key::Keyed, &[key]).await?.pop().flatten();
            let Some(id) = found.and_then(|id| codec::job_id(&id)) else { return Ok(None) };
            let Some((mut job, kept)) = self.whole(ACTION, id).await? else { continue };
            let now = self.now().await?;
            let mut commit = Commit::default();
            commit.read_jobs.push((id, Some(kept.clone())));
            if is_free(&job, now) {
                commit.delete_free(&job);
            } else {
                // It keeps running, and does not run again.
                job.key = None;
                job.attempts = job.max_attempts;
                // By that it is known that its key was taken after it was claimed, also when the clock was set back meanwhile.
                let claimed = job.locked_at.unwrap_or_default();
                job.updated_at = now.max(later(claimed, Duration::from_micros(1)));
                commit.keep(&job, codec::payload_bytes(&kept));
            }
            commit.ready = usize::from(job.queue.is_some());
            if commit.send(ACTION, &self.link).await?.is_some() {
                return Ok(Some(job));
            }
        }
        Err(busy(ACTION))
    }

    async fn complete(&self, ids: &[JobId]) -> Result<Vec<Job>> {
        self.change_free("complete jobs", ids, |_, _| false).await
    }

    async fn discard(&self, ids: &[JobId], reason: &str) -> Result<Vec<Job>> {
        let reason = clean_error(reason);
        let discard = |job: &mut Job, now| {
            job.last_error = Some(reason.clone());
            job.attempts = job.max_attempts;
            job.updated_at = now;
            true
        };
        self.change_free("discard jobs", ids, discard).await
    }

    async fn reschedule(&self, ids: &[JobId], change: &Reschedule) -> Result<Vec<Job>> {
        change.check()?;
        let apply = |job: &mut Job, now| {
            let run_at = change.get_run_at().or_else(|| change.get_run_in().map(|delay| later(now, delay)));
            job.run_at = run_at.unwrap_or(job.run_at);
            job.priority = change.get_priority().unwrap_or(job.priority);
            job.attempts = change.get_attempts().unwrap_or(job.attempts);
            job.max_attempts = change.get_max_attempts().unwrap_or(job.max_attempts);
            job.updated_at = now;
            true
        };
        self.change_free("reschedule jobs", ids, apply).await
    }

    async fn unlock(&self, workers: &[String]) -> Result<u64> {
        let mut args: Args = vec![b"unlock".to_vec()];
        // Each once.
        let workers: BTreeSet<&String> = workers.iter().collect();
        args.extend(workers.into_iter().map(|worker| worker.clone().into_bytes()));
        Ok(self.release("unlock workers", args).await?.map_or(0, |(jobs, _)| jobs))
    }

    async fn cleanup(&self, what: &Cleanup) -> Result<Cleaned> {
        let mut cleaned = Cleaned::default();
        if what.dead_jobs {
            cleaned.dead_jobs = self.delete_dead().await?;
        }
        if what.tasks {
            cleaned.tasks = self.forget_names("tasks", what.keep_tasks.clone()).await?;
        }
        if what.queues {
            // What waits is found by the script.
            let mut used = Vec::new();
            for key in [Key::Held, Key::Dead] {
                used.extend(self.jobs_of(key, "clean up").await?.into_iter().filter_map(|job| job.queue));
            }
            used.sort_unstable();
            used.dedup();
            cleaned.queues = self.forget_names("queues", used).await?;
        }
        Ok(cleaned)
    }
}

impl RedisStorage {
    /// A job with its payload, and how it is kept.
    async fn whole(&self, action: &'static str, id: JobId) -> Result<Option<(Job, Vec<u8>)>> {
        let Some(kept) = read_kept(action, &self.link, &[id]).await?.pop().flatten() else { return Ok(None) };
        let Some(payload) = self.payloads(&[id]).await?.pop().flatten() else { return Ok(None) };
        codec::job(&codec::id(id), &kept, payload).map(|job| Some((job, kept))).ok_or_else(|| odd(action))
    }

    /// Changes those of these jobs that nobody holds, by id; deletes those of which the change says `false`.
    async fn change_free(
        &self,
        action: &'static str,
        ids: &[JobId],
        change: impl Fn(&mut Job, DateTime<Utc>) -> bool + Send + Sync,
    ) -> Result<Vec<Job>> {
        let ids: Vec<JobId> = ids.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
        if ids.len() > MOST {
            let problem = format!("are too many for one call, in which there can be {MOST}; name them in several");
            return Err(Error::InvalidJob { what: "ids", value: ids.len().to_string(), problem });
        }
        for _ in 0..TRIES {
            let kept = read_kept(action, &self.link, &ids).await?;
            let payloads = self.payloads(&ids).await?;
            let now = self.now().await?;
            let mut commit = Commit::default();
            let mut jobs = Vec::new();
            for (id, (kept, payload)) in ids.iter().zip(kept.into_iter().zip(payloads)) {
                let (Some(kept), Some(payload)) = (kept, payload) else { continue };
                let mut job = codec::job(&codec::id(*id), &kept, payload).ok_or_else(|| odd(action))?;
                if !is_free(&job, now) {
                    continue;
                }
                let bytes = codec::payload_bytes(&kept);
                commit.read_jobs.push((*id, Some(kept)));
                if change(&mut job, now) {
                    commit.keep(&job, bytes);
                } else {
                    commit.delete_free(&job);
                }
                let is_ready = job.locked_at.is_none() && job.attempts < job.max_attempts && job.run_at <= now;
                commit.ready += usize::from(is_ready || job.queue.is_some());
                commit.changes.lines.insert(&job.task);
                jobs.push(job);
            }
            if jobs.is_empty() || commit.send(action, &self.link).await?.is_some() {
                return Ok(jobs);
            }
        }
        Err(busy(action))
    }

    async fn delete_dead(&self) -> Result<u64> {
        const ACTION: &str = "delete dead jobs";
        let mut deleted = 0;
        let ids = self.ids_of(Key::Dead, ACTION).await?;
        'parts: for part in ids.chunks(PART) {
            for _ in 0..TRIES {
                let kept = read_kept(ACTION, &self.link, part).await?;
                let mut commit = Commit::default();
                for (id, kept) in part.iter().zip(kept) {
                    let Some(kept) = kept else { continue };
                    let job = codec::job(&codec::id(*id), &kept, Payload::empty()).ok_or_else(|| odd(ACTION))?;
                    // It may have been revived.
                    if job.locked_at.is_none() && job.attempts >= job.max_attempts {
                        commit.read_jobs.push((*id, Some(kept)));
                        commit.delete(*id);
                    }
                }
                let count = commit.read_jobs.len() as u64;
                if count == 0 || commit.send(ACTION, &self.link).await?.is_some() {
                    deleted += count;
                    continue 'parts;
                }
            }
            return Err(busy(ACTION));
        }
        Ok(deleted)
    }

    async fn forget_names(&self, what: &str, keep: Vec<String>) -> Result<u64> {
        const ACTION: &str = "clean up";
        let mut args: Args = vec![what.into()];
        args.extend(keep.into_iter().map(String::into_bytes));
        let answered = self.link.run(ACTION, &CLEANUP, args).await?;
        answer::number(&answered).and_then(|number| number.try_into().ok()).ok_or_else(|| odd(ACTION))
    }
}
