//! What an administrator sees. Long lists are read in pages, so no script keeps others waiting; they are no snapshot.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use async_trait::async_trait;
use backfill_core::Result;
use backfill_core::job::{Job, JobId, JobState, Payload};
use backfill_core::search::{Found, Order, Page, Place, Search};
use backfill_core::storage::{
    Counts, Effort, Inspect, Number, Precision, QueueInfo, QueueList, Storage, Tally, TaskInfo, WorkerInfo,
};
use chrono::{DateTime, Utc};

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

    async fn search(&self, search: &Search) -> Result<Found> {
        self.search_jobs(search).await
    }

    async fn tally(&self, effort: Effort) -> Result<Tally> {
        let now = self.now().await?;
        let size = self.cardinality(Key::Ids).await?;
        let mut counts = Counts::default();
        if effort == Effort::Exact || size <= FEW {
            self.each(|job| counts.add(job.state(now), 1)).await?;
            return Ok(Tally::of(&counts, Precision::Exact));
        }
        let sample = self.sample().await?;
        for job in &sample {
            counts.add(job.state(now), 1);
        }
        let mut tally = scaled(&counts, size);
        tally.dead = Number::exact(self.cardinality(Key::Dead).await?);
        tally.running = Number::exact(self.cardinality(Key::Held).await?);
        Ok(tally)
    }

    async fn queues(&self, list: &QueueList) -> Result<Vec<QueueInfo>> {
        let now = self.now().await?;
        let is_counted = list.effort == Effort::Exact || self.cardinality(Key::Ids).await? <= FEW;
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
        if !is_counted {
            return Ok(list.among(queues.into_values().map(|mut queue| {
                queue.precision = Precision::Unknown;
                queue
            })));
        }
        self.each(|job| {
            if let Some(name) = &job.queue {
                let queue =
                    queues.entry(name.clone()).or_insert_with(|| QueueInfo::new(name.clone(), Counts::default()));
                queue.jobs.add(job.state(now), 1);
            }
        })
        .await?;
        Ok(list.among(queues.into_values()))
    }

    async fn tasks(&self, effort: Effort) -> Result<Vec<TaskInfo>> {
        let now = self.now().await?;
        let size = self.cardinality(Key::Ids).await?;
        if effort == Effort::Bounded && size > FEW {
            return self.estimate_tasks(size, now).await;
        }
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

    async fn workers(&self, _: Effort) -> Result<Vec<WorkerInfo>> {
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

/// So many jobs are counted while a person waits.
const FEW: u64 = 20_000;
/// So many are a sample.
const SAMPLE: usize = 2_000;

/// The numbers of a sample, as they are for so many jobs.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an estimate is rounded anyway, and never negative"
)]
fn scaled(sample: &Counts, of: u64) -> Tally {
    let scale = of as f64 / (sample.total().max(1)) as f64;
    let estimated = |count: u64| Number::estimated((count as f64 * scale).round() as u64);
    let mut tally = Tally::default();
    (tally.ready, tally.scheduled) = (estimated(sample.ready), estimated(sample.scheduled));
    (tally.running, tally.retrying) = (estimated(sample.running), estimated(sample.retrying));
    tally.dead = estimated(sample.dead);
    tally
}

impl RedisStorage {
    /// How many members a set has.
    async fn cardinality(&self, key: Key) -> Result<u64> {
        let mut command = redis::cmd("ZCARD");
        command.arg(self.link.keys().get(key));
        self.link.read(ACTION, &command).await
    }

    /// Some jobs at random, without their payloads.
    async fn sample(&self) -> Result<Vec<Job>> {
        let mut command = redis::cmd("ZRANDMEMBER");
        command.arg(self.link.keys().get(Key::Ids)).arg(SAMPLE);
        let ids: Vec<Vec<u8>> = self.link.read(ACTION, &command).await?;
        let ids: Vec<JobId> = ids.iter().filter_map(|id| codec::job_id(id)).collect();
        let kept = read_kept(ACTION, &self.link, &ids).await?;
        let jobs = ids.iter().zip(kept).filter_map(|(id, kept)| codec::job(&codec::id(*id), &kept?, Payload::empty()));
        Ok(jobs.collect())
    }

    async fn estimate_tasks(&self, size: u64, now: DateTime<Utc>) -> Result<Vec<TaskInfo>> {
        let sample = self.sample().await?;
        let of_each = size / (sample.len() as u64).max(1);
        let names = self.task_names().await?;
        let tasks = names.into_iter().map(|name| {
            let counts = Counts::of(sample.iter().filter(|job| job.task == name), now);
            let mut task = TaskInfo::new(name, scaled(&counts, counts.total() * of_each).counts());
            task.precision = Precision::Estimated;
            task
        });
        Ok(tasks.collect())
    }

    async fn search_jobs(&self, search: &Search) -> Result<Found> {
        search.check()?;
        let started = Instant::now();
        let now = self.now().await?;
        let of = Some(Number::exact(self.cardinality(Key::Ids).await?));
        if search.order == Order::Claim {
            // The lists by which workers claim are one for each task and queue, so the order of all is made here, of all.
            let mut all = Vec::new();
            self.each(|job| all.push(job.clone())).await?;
            let wanted: Vec<Job> = all.into_iter().filter(|job| search.reaches(job)).collect();
            return self.found_among(search, wanted, now).await;
        }
        if let Some(ids) = self.narrow(search).await? {
            let kept = read_kept(ACTION, &self.link, &ids).await?;
            let there =
                ids.iter().zip(kept).filter_map(|(id, kept)| codec::job(&codec::id(*id), &kept?, Payload::empty()));
            return self.found_among(search, there.collect(), now).await;
        }
        let mut page = Page::new(search);
        let (mut looked_at, mut up_to) = (0, search.after);
        while !page.is_full() {
            if looked_at > 0 && search.budget.is_some_and(|budget| started.elapsed() >= budget) {
                return Ok(page.end(looked_at, of, up_to));
            }
            let after = if let Some(Place::Id(id)) = up_to { Some(id) } else { None };
            let jobs = self.page_in(after, PAGE, search.order == Order::Newest).await?;
            let Some((last, _)) = jobs.last() else { break };
            up_to = Some(Place::Id(last.id));
            looked_at += jobs.len() as u64;
            self.fill(&mut page, search, jobs, now).await?;
        }
        Ok(page.end(looked_at, of, None))
    }

    /// The ids that a search is about, where a set or a name gives them.
    async fn narrow(&self, search: &Search) -> Result<Option<Vec<JobId>>> {
        if let Some(key) = search.query.key() {
            let id = read_fields(ACTION, &self.link, Key::Keyed, &[key.as_bytes()]).await?.pop().flatten();
            return Ok(Some(id.as_deref().and_then(codec::job_id).into_iter().collect()));
        }
        let mut ids = match search.query.states()[..] {
            [JobState::Dead] => self.ids_of(Key::Dead, ACTION).await?,
            [JobState::Running] => self.ids_of(Key::Held, ACTION).await?,
            _ => return Ok(None),
        };
        ids.sort_unstable();
        Ok(Some(ids))
    }

    /// The page of these jobs, which come without their payloads.
    async fn found_among(&self, search: &Search, jobs: Vec<Job>, now: DateTime<Utc>) -> Result<Found> {
        let mut jobs: Vec<Job> = jobs.into_iter().filter(|job| search.reaches(job)).collect();
        match search.order {
            Order::Newest => jobs.sort_by_key(|job| std::cmp::Reverse(job.id)),
            Order::Claim => jobs.sort_by_key(|job| (job.priority, job.run_at, job.id)),
            _ => jobs.sort_by_key(|job| job.id),
        }
        let mut page = Page::new(search);
        let mut looked_at = 0;
        for chunk in jobs.chunks(PAGE) {
            if page.is_full() {
                break;
            }
            looked_at += chunk.len() as u64;
            self.fill(&mut page, search, chunk.iter().map(|job| (job.clone(), 0)).collect(), now).await?;
        }
        Ok(page.end(looked_at, Some(Number::exact(jobs.len() as u64)), None))
    }

    /// Adds those that are wanted, in this order, with their payloads where these are needed.
    async fn fill(
        &self,
        page: &mut Page<'_>,
        search: &Search,
        jobs: Vec<(Job, u32)>,
        now: DateTime<Utc>,
    ) -> Result<()> {
        /// So many payloads are read at once.
        const PAYLOADS: usize = 64;
        let reads = search.query.reads_payloads();
        // Terms about the payload can only be judged with it; without one they say nothing yet.
        let wanted: Vec<Job> =
            jobs.into_iter().map(|(job, _)| job).filter(|job| reads || search.query.matches(job, now)).collect();
        for chunk in wanted.chunks(PAYLOADS) {
            if page.is_full() {
                break;
            }
            let payloads = if reads || search.payloads {
                let ids: Vec<JobId> = chunk.iter().map(|job| job.id).collect();
                self.payloads(&ids).await?
            } else {
                chunk.iter().map(|_| Some(Payload::empty())).collect()
            };
            for (job, payload) in chunk.iter().zip(payloads) {
                // One that is gone by now is not there.
                let Some(payload) = payload else { continue };
                let mut job = job.clone();
                job.payload = payload;
                if !reads || search.query.matches(&job, now) {
                    page.add(job);
                }
            }
        }
        Ok(())
    }

    /// Jobs behind this id, by id, without their payloads; and how many bytes those have.
    pub(crate) async fn page(&self, after: Option<JobId>, limit: usize) -> Result<Vec<(Job, u32)>> {
        self.page_in(after, limit, false).await
    }

    /// The same in either direction.
    async fn page_in(&self, after: Option<JobId>, limit: usize, is_descending: bool) -> Result<Vec<(Job, u32)>> {
        let mut after = after;
        loop {
            let (name, first, last) =
                if is_descending { ("ZREVRANGEBYLEX", "+", "-") } else { ("ZRANGEBYLEX", "-", "+") };
            let from = after.map_or_else(|| first.into(), |id| [b"(".as_slice(), &codec::id(id)].concat());
            let mut command = redis::cmd(name);
            command.arg(self.link.keys().get(Key::Ids)).arg(from).arg(last).arg("LIMIT").arg(0).arg(limit);
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
