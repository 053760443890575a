//! Moving jobs from and to other storages.

use std::collections::BTreeSet;

use async_trait::async_trait;
use backfill_core::job::{Job, JobId, Payload};
use backfill_core::storage::{Transfer, WorkerId, check_whole, reserved_at};
use backfill_core::{Error, Result};
use redis::Value;

use crate::RedisStorage;
use crate::answer;
use crate::codec;
use crate::commit::{Commit, TRIES, busy, read_kept};
use crate::errors::odd;
use crate::keys::Key;
use crate::link::Args;
use crate::scripts::IMPORT;

#[async_trait]
impl Transfer for RedisStorage {
    async fn reserve(&self, transfer_id: &str, after: Option<JobId>, limit: u32, max_bytes: u64) -> Result<Vec<Job>> {
        const ACTION: &str = "reserve jobs";
        let waits = |job: &Job| job.locked_at.is_none() && job.attempts < job.max_attempts;
        let is_wanted = |job: &Job| waits(job) || job.locked_by.as_deref() == Some(transfer_id);
        'tries: for _ in 0..TRIES {
            let (mut wanted, mut bytes, mut after) = (Vec::new(), 0_u64, after);
            'pages: while wanted.len() < limit as usize {
                let page = self.page(after, 1_000).await?;
                let Some((last, _)) = page.last() else { break };
                after = Some(last.id);
                for (job, payload_bytes) in page {
                    if !is_wanted(&job) {
                        continue;
                    }
                    let error = job.last_error.as_ref().map_or(0, String::len) as u64;
                    bytes = bytes.saturating_add(u64::from(payload_bytes) + error);
                    if (bytes > max_bytes && !wanted.is_empty()) || wanted.len() >= limit as usize {
                        break 'pages;
                    }
                    wanted.push(job.id);
                }
            }
            if wanted.is_empty() {
                return Ok(Vec::new());
            }
            let kept = read_kept(ACTION, &self.link, &wanted).await?;
            let payloads = self.payloads(&wanted).await?;
            let (mut commit, mut reserved) = (Commit::default(), Vec::new());
            for (id, (kept, payload)) in wanted.iter().zip(kept.into_iter().zip(payloads)) {
                let (Some(kept), Some(payload)) = (kept, payload) else { continue 'tries };
                let mut job = codec::job(&codec::id(*id), &kept, payload).ok_or_else(|| odd(ACTION))?;
                if !is_wanted(&job) {
                    continue 'tries;
                }
                job.locked_by = Some(transfer_id.to_owned());
                job.locked_at = Some(reserved_at());
                commit.keep(&job, codec::payload_bytes(&kept));
                commit.read_jobs.push((*id, Some(kept)));
                reserved.push(job);
            }
            check_whole(&reserved)?;
            if commit.send(ACTION, &self.link).await?.is_some() {
                return Ok(reserved);
            }
        }
        Err(busy(ACTION))
    }

    async fn delete_reserved(&self, transfer_id: &str, ids: &[JobId]) -> Result<u64> {
        const ACTION: &str = "delete moved jobs";
        let ids: Vec<JobId> = ids.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
        for _ in 0..TRIES {
            let kept = read_kept(ACTION, &self.link, &ids).await?;
            let mut commit = Commit::default();
            for (id, kept) in ids.iter().zip(kept) {
                let Some(kept) = kept else { continue };
                let job = codec::job(&codec::id(*id), &kept, Payload::empty()).ok_or_else(|| odd(ACTION))?;
                if job.locked_by.as_deref() == Some(transfer_id) {
                    commit.read_jobs.push((*id, Some(kept)));
                    commit.delete(*id);
                }
            }
            let count = commit.read_jobs.len() as u64;
            if count == 0 || commit.send(ACTION, &self.link).await?.is_some() {
                return Ok(count);
            }
        }
        Err(busy(ACTION))
    }

    async fn import(&self, run: &WorkerId, transfer_id: &str, jobs: &[Job]) -> Result<Vec<JobId>> {
        const ACTION: &str = "store moved jobs";
        let mut args: Args = vec![run.as_str().into(), transfer_id.into()];
        for job in jobs {
            let mut copy = job.clone();
            copy.locked_at = None;
            copy.locked_by = None;
            args.push(codec::id(job.id).to_vec());
            args.push(codec::kept(&copy, codec::length_of(&job.payload)));
            args.push(job.payload.as_str().into());
        }
        let answered = self.link.run(ACTION, &IMPORT, args).await?;
        if answered == Value::Nil {
            return Err(Error::MoveTakenOver { run: run.to_string() });
        }
        let read = || answer::list(answered)?.into_iter().map(|id| codec::job_id(&answer::bytes(id)?)).collect();
        let here: Option<Vec<JobId>> = read();
        here.ok_or_else(|| odd(ACTION))
    }

    async fn forget_imports(&self, transfer_id: &str) -> Result<()> {
        let mut command = redis::cmd("ZREMRANGEBYLEX");
        let [from, to] = ["\0", "\u{1}"].map(|end| format!("{transfer_id}{end}"));
        command.arg(self.link.keys().get(Key::Imports)).arg(format!("[{from}")).arg(format!("({to}"));
        let _: i64 = self.link.read("forget a move", &command).await?;
        Ok(())
    }
}
