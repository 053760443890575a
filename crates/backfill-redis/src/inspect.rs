//! What an administrator sees. Long lists are read in pages, so no script keeps others waiting; they are no snapshot.

use std::collections::BTreeMap;

use async_trait::async_trait;
use backfill_core::Result;
use backfill_core::job::{Job, JobId, JobState, Payload};
use backfill_core::storage::{Counts, Inspect, JobFilter, QueueInfo, Storage, TaskInfo, WorkerInfo};
use chrono::{DateTime, Utc};
use std::collections::HashMap;

use crate::RedisStorage;
use crate::codec::{self, NONE};
use crate::commit::{read_fields, read_kept};
use crate::errors::odd;
use crate::keys::Key;

const ACTION: &str = "read jobs";
/// How many jobs one page has.
const PAGE: usize = 1_000;

#[async_trait]
impl Inspect for RedisStorage {
    async fn job(&self, id: JobId) -> Result<Option<Job>> {
        Ok(self.whole_jobs(&[id]).await?.pop())
    }

    async fn jobs(&self, filter: &JobFilter) -> Result<Vec<Job>> {
        let now = self.now().await?;
        let mut found: Vec<Job> = Vec::new();
        let mut bytes = 0_u64;
        let mut rest = filter.clone().without_payloads();
        rest.max_bytes = None;
        while found.len() < filter.limit as usize {
            let page = self.page(rest.after, PAGE).await?;
            let Some(last) = page.last().map(|(job, _)| job.id) else { break };
            rest.after = Some(last);
            let sizes: HashMap<JobId, u32> = page.iter().map(|(job, bytes)| (job.id, *bytes)).collect();
            let jobs: Vec<Job> = page.into_iter().map(|(job, _)| job).collect();
            let mut matching = JobFilter { after: None, limit: filter.limit, ..rest.clone() }.page(&jobs, now);
            matching.truncate(filter.limit as usize - found.len());
            if !filter.payloads {
                found.extend(matching);
                continue;
            }
            let mut wanted = Vec::new();
            let mut is_full = false;
            for job in matching {
                bytes = bytes.saturating_add(u64::from(sizes[&job.id]));
                is_full = bytes > filter.max_bytes.unwrap_or(u64::MAX) && !(found.is_empty() && wanted.is_empty());
                if is_full {
                    break;
                }
                wanted.push(job);
            }
            let ids: Vec<JobId> = wanted.iter().map(|job| job.id).collect();
            let payloads = self.payloads(&ids).await?;
            // One that is gone by now is not there.
            found.extend(wanted.into_iter().zip(payloads).filter_map(|(mut job, payload)| {
                job.payload = payload?;
                Some(job)
            }));
            if is_full {
                break;
            }
        }
        Ok(found)
    }

    async fn counts(&self) -> Result<Counts> {
        let now = self.now().await?;
        let mut counts = Counts::default();
        self.each(|job| counts.add(job.state(now), 1)).await?;
        Ok(counts)
    }

    async fn queues(&self) -> Result<Vec<QueueInfo>> {
        let now = self.now().await?;
        let mut command = redis::cmd("HGETALL");
        command.arg(self.link.keys().get(Key::Queues));
        let known: HashMap<String, Vec<u8>> = self.link.read("read the queues", &command).await?;
        let mut queues: BTreeMap<String, QueueInfo> = BTreeMap::new();
        for (name, lock) in known {
            let mut queue = QueueInfo::new(name.clone(), Counts::default());
            if let Some((at, by)) = lock.split_at_checked(8) {
                queue.locked_at = codec::time(at);
                queue.locked_by = Some(String::from_utf8_lossy(by).into_owned());
            }
            queues.insert(name, queue);
        }
        self.each(|job| {
            if let Some(name) = &job.queue {
                let queue =
                    queues.entry(name.clone()).or_insert_with(|| QueueInfo::new(name.clone(), Counts::default()));
                queue.jobs.add(job.state(now), 1);
            }
        })
        .await?;
        Ok(queues.into_values().collect())
    }

    async fn tasks(&self) -> Result<Vec<TaskInfo>> {
        let now = self.now().await?;
        let named =
            self.task_names().await?.into_iter().map(|name| (name.clone(), TaskInfo::new(name, Counts::default())));
        let mut tasks: BTreeMap<String, TaskInfo> = named.collect();
        self.each(|job| {
            let task =
                tasks.entry(job.task.clone()).or_insert_with(|| TaskInfo::new(job.task.clone(), Counts::default()));
            let state = job.state(now);
            task.jobs.add(state, 1);
            if state == JobState::Ready {
                task.oldest_ready = Some(task.oldest_ready.map_or(job.run_at, |oldest| oldest.min(job.run_at)));
            }
        })
        .await?;
        Ok(tasks.into_values().collect())
    }

    async fn task_names(&self) -> Result<Vec<String>> {
        let mut command = redis::cmd("SMEMBERS");
        command.arg(self.link.keys().get(Key::Tasks));
        let mut names: Vec<String> = self.link.read("read the tasks", &command).await?;
        names.sort_unstable();
        Ok(names)
    }

    async fn last_id(&self) -> Result<Option<JobId>> {
        let mut command = redis::cmd("HGET");
        command.arg(self.link.keys().get(Key::Counters)).arg("id");
        let last: Option<i64> = self.link.read("read the last id", &command).await?;
        Ok(Some(JobId::from_number(last.unwrap_or_default())))
    }

    async fn workers(&self) -> Result<Vec<WorkerInfo>> {
        let serving = self.serving().await?;
        let jobs = self.jobs_of(Key::Held, "read what is held").await?;
        let queues: Vec<QueueInfo> = self.held_queues().await?;
        Ok(WorkerInfo::holding(serving, &jobs, &queues))
    }

    async fn serving(&self) -> Result<Vec<WorkerInfo>> {
        let now = self.now().await?;
        let registered = self.registered("read the workers", true).await?;
        Ok(registered.into_iter().map(|(id, registered)| registered.info(&id, now)).collect())
    }
}

impl RedisStorage {
    /// Jobs behind this id, by id, without their payloads; and how many bytes those have.
    pub(crate) async fn page(&self, after: Option<JobId>, limit: usize) -> Result<Vec<(Job, u32)>> {
        let mut after = after;
        loop {
            let from = after.map_or_else(|| b"-".to_vec(), |id| [b"(".as_slice(), &codec::id(id)].concat());
            let mut command = redis::cmd("ZRANGEBYLEX");
            command.arg(self.link.keys().get(Key::Ids)).arg(from).arg("+").arg("LIMIT").arg(0).arg(limit);
            let ids: Vec<Vec<u8>> = self.link.read(ACTION, &command).await?;
            let ids =
                ids.iter().map(|id| codec::job_id(id)).collect::<Option<Vec<JobId>>>().ok_or_else(|| odd(ACTION))?;
            let Some(last) = ids.last() else { return Ok(Vec::new()) };
            after = Some(*last);
            let kept = read_kept(ACTION, &self.link, &ids).await?;
            let jobs = ids.iter().zip(kept).filter_map(|(id, kept)| kept.map(|kept| (*id, kept))).map(|(id, kept)| {
                Some((codec::job(&codec::id(id), &kept, Payload::empty())?, codec::payload_bytes(&kept)))
            });
            let jobs = jobs.collect::<Option<Vec<_>>>().ok_or_else(|| odd(ACTION))?;
            // All of them are gone by now: there may be more behind.
            if !jobs.is_empty() {
                return Ok(jobs);
            }
        }
    }

    /// Looks at all jobs, without their payloads.
    async fn each(&self, mut look: impl FnMut(&Job)) -> Result<()> {
        let mut after = None;
        loop {
            let page = self.page(after, PAGE).await?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(last.id);
            for (job, _) in &page {
                look(job);
            }
        }
    }

    pub(crate) async fn payloads(&self, ids: &[JobId]) -> Result<Vec<Option<Payload>>> {
        let fields: Vec<[u8; 8]> = ids.iter().map(|id| codec::id(*id)).collect();
        let payloads = read_fields(ACTION, &self.link, Key::Payloads, &fields).await?;
        Ok(payloads.into_iter().map(|payload| payload.map(codec::payload)).collect())
    }

    /// Those of these jobs that are there, with their payloads.
    pub(crate) async fn whole_jobs(&self, ids: &[JobId]) -> Result<Vec<Job>> {
        let kept = read_kept(ACTION, &self.link, ids).await?;
        let payloads = self.payloads(ids).await?;
        let both = ids.iter().zip(kept.into_iter().zip(payloads));
        let there = both.filter_map(|(id, (kept, payload))| Some((*id, kept?, payload?)));
        let jobs = there.map(|(id, kept, payload)| codec::job(&codec::id(id), &kept, payload));
        jobs.collect::<Option<Vec<_>>>().ok_or_else(|| odd(ACTION))
    }

    /// All members of a sorted set that is as long as what is held, or is dead.
    pub(crate) async fn members_of(&self, key: Key, action: &'static str) -> Result<Vec<Vec<u8>>> {
        let mut command = redis::cmd("ZRANGE");
        command.arg(self.link.keys().get(key)).arg(0).arg(-1);
        self.link.read(action, &command).await
    }

    /// The ids that such members end with.
    pub(crate) async fn ids_of(&self, key: Key, action: &'static str) -> Result<Vec<JobId>> {
        let members = self.members_of(key, action).await?;
        Ok(members.iter().filter_map(|member| codec::job_id(member.last_chunk::<8>()?)).collect())
    }

    /// Their jobs, without payloads.
    pub(crate) async fn jobs_of(&self, key: Key, action: &'static str) -> Result<Vec<Job>> {
        let ids = self.ids_of(key, action).await?;
        let kept = read_kept(action, &self.link, &ids).await?;
        let jobs = ids.iter().zip(kept).filter_map(|(id, kept)| codec::job(&codec::id(*id), &kept?, Payload::empty()));
        Ok(jobs.collect())
    }

    async fn held_queues(&self) -> Result<Vec<QueueInfo>> {
        let members = self.members_of(Key::QHeld, "read the queues").await?;
        let names: Vec<&[u8]> =
            members.iter().filter_map(|member| member.splitn(2, |byte| *byte == 0).nth(1)).collect();
        let locks = read_fields("read the queues", &self.link, Key::Queues, &names).await?;
        let held = names.iter().zip(locks).filter_map(|(name, lock)| {
            let lock = lock.filter(|lock| lock.len() > NONE.len())?;
            let mut queue = QueueInfo::new(String::from_utf8_lossy(name).into_owned(), Counts::default());
            queue.locked_at = codec::time(&lock[..8]);
            queue.locked_by = Some(String::from_utf8_lossy(&lock[8..]).into_owned());
            Some(queue)
        });
        Ok(held.collect())
    }
}

/// Whether a job may be changed: nobody holds it, or has held it for too long.
pub(crate) fn is_free(job: &Job, now: DateTime<Utc>) -> bool {
    job.locked_at.is_none_or(|at| at < now - crate::consumer::STALE)
}
