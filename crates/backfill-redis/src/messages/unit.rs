//! What belongs together.

use std::collections::HashMap;

use backfill_core::Result;
use backfill_core::job::{JobId, Payload};
use backfill_core::storage::messages::{Applied, Batch, JobWrite, Needs, Plan, Present, Refusal, Unit};
use redis::Value;

use crate::RedisStorage;
use crate::answer;
use crate::codec;
use crate::commit::{Commit, Kept, TRIES};
use crate::errors::odd;
use crate::link::Args;
use crate::scripts::PRESENT;

const ACTION: &str = "write what belongs together";

/// What units need, as it is kept.
struct Read {
    present: Present,
    documents: Vec<(Vec<u8>, Kept)>,
    workers: Vec<(String, bool)>,
    jobs: Vec<(JobId, Kept)>,
    keys: Vec<(String, Option<JobId>)>,
}

impl RedisStorage {
    pub(super) async fn apply_units(&self, units: &[Unit]) -> Result<Vec<Applied>> {
        let needs = Needs::of(units);
        for tried in 0..TRIES {
            let Read { present, documents, workers, jobs, keys } = self.read_present(&needs).await?;
            let sizes: HashMap<JobId, u32> =
                jobs.iter().map(|(id, kept)| (*id, kept.as_deref().map_or(0, codec::payload_bytes))).collect();
            let now = present.now;
            let plan = Plan::of(units, present);
            if plan.is_nothing() {
                return Ok(plan.applied(Vec::new(), Vec::new()));
            }
            let batches = plan.batches();
            let mut commit = Commit {
                read_documents: documents,
                read_workers: workers,
                read_keys: keys,
                read_jobs: jobs,
                ..Commit::default()
            };
            for write in &plan.jobs {
                match write {
                    JobWrite::Delete(id) => commit.delete(*id),
                    JobWrite::Keep { job, payload_changed } => {
                        if *payload_changed {
                            commit.keep_with(job, &job.payload);
                        } else {
                            commit.keep(job, sizes.get(&job.id).copied().unwrap_or_default());
                        }
                        commit.ready += usize::from(job.attempts < job.max_attempts && job.run_at <= now);
                    }
                }
            }
            for queue in &plan.freed {
                commit.freed.push((queue.name.clone(), codec::moment(queue.locked_at), queue.locked_by.clone()));
            }
            // What stands behind them may be ready.
            commit.ready += plan.freed.len();
            for (key, document) in &plan.documents {
                commit.documents.push((codec::field(key), document.as_ref().map(codec::kept_document)));
            }
            commit.batches = batches.iter().map(|batch| batch.jobs.as_slice()).collect();
            commit.events = plan.events.iter().map(|(_, event)| *event).collect();
            commit.changes = plan.changes.clone();
            if let Some(committed) = commit.send(ACTION, &self.link).await? {
                let added = split(&batches, committed.added);
                let positions = committed.positions;
                return Ok(plan.applied(added, positions));
            }
            if tried > 2 {
                let most = 200_u64 << tried.min(7);
                tokio::time::sleep(std::time::Duration::from_micros(fastrand::u64(0..most))).await;
            }
        }
        let busy = |unit: &Unit| Refusal::Busy { id: unit.settle.first().map(|settle| settle.hold.id()) };
        Ok(units.iter().map(|unit| Applied::Refused(busy(unit))).collect())
    }

    async fn read_present(&self, needs: &Needs<'_>) -> Result<Read> {
        let mut args: Args = vec![needs.versions.to_string().into_bytes()];
        let mut push = |list: Vec<Vec<u8>>| {
            args.push(list.len().to_string().into_bytes());
            args.extend(list);
        };
        let fields: Vec<Vec<u8>> = needs.documents.iter().map(|key| codec::field(key)).collect();
        push(fields.clone());
        push(needs.owners.iter().map(|owner| owner.as_bytes().to_vec()).collect());
        push(needs.jobs.iter().map(|id| codec::id(*id).to_vec()).collect());
        push(needs.keys.iter().map(|key| key.as_bytes().to_vec()).collect());
        let answered = self.link.run(ACTION, &PRESENT, args).await?;
        let read = || {
            let [now, last, documents, workers, jobs, keys] = answer::parts(answered)?;
            let last = u64::try_from(answer::number(&last)?).ok()?;
            let kept = |value: Value| if value == Value::Nil { Some(None) } else { answer::bytes(value).map(Some) };
            let all_kept = |value: Value| answer::list(value)?.into_iter().map(kept).collect::<Option<Vec<Kept>>>();
            let documents: Vec<(Vec<u8>, Kept)> = fields.iter().cloned().zip(all_kept(documents)?).collect();
            let workers = answer::list(workers)?.into_iter().map(|there| Some(answer::number(&there)? == 1));
            let workers: Vec<bool> = workers.collect::<Option<_>>()?;
            let workers: Vec<(String, bool)> =
                needs.owners.iter().map(|owner| (*owner).to_owned()).zip(workers).collect();
            let jobs: Vec<(JobId, Kept)> = needs.jobs.iter().copied().zip(all_kept(jobs)?).collect();
            let keys = all_kept(keys)?.into_iter().map(|id| match id {
                Some(id) => codec::job_id(&id).map(Some),
                None => Some(None),
            });
            let keys: Vec<Option<JobId>> = keys.collect::<Option<_>>()?;
            let keys: Vec<(String, Option<JobId>)> = needs.keys.iter().map(|key| (*key).to_owned()).zip(keys).collect();
            let mut present = Present { now: answer::time(now)?, ..Present::default() };
            for (field, kept) in &documents {
                if let Some(kept) = kept {
                    let document = codec::document(field, kept)?;
                    present.documents.insert(document.key.clone(), document);
                }
            }
            present.workers = workers.iter().filter(|(_, there)| *there).map(|(worker, _)| worker.clone()).collect();
            for (id, kept) in &jobs {
                if let Some(kept) = kept {
                    present.jobs.insert(*id, codec::job(&codec::id(*id), kept, Payload::empty())?);
                }
            }
            present.keys = keys.iter().filter(|(_, id)| id.is_some()).map(|(key, _)| key.clone()).collect();
            present.versions = (0..needs.versions as u64).rev().map(|n| last - n).collect();
            Some(Read { present, documents, workers, jobs, keys })
        };
        read().ok_or_else(|| odd(ACTION))
    }
}

fn split(batches: &[Batch], added: Vec<backfill_core::job::Job>) -> Vec<Vec<backfill_core::job::Job>> {
    let mut added = added.into_iter();
    batches.iter().flat_map(|batch| batch.split(added.by_ref().take(batch.jobs.len()).collect())).collect()
}
