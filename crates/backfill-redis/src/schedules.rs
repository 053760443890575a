//! The gate through which crontabs add their jobs.

use std::collections::HashMap;

use async_trait::async_trait;
use backfill_core::Result;
use backfill_core::job::Job;
use backfill_core::storage::{DueJob, KnownCrontab, Schedules};
use chrono::{DateTime, Utc};
use redis::Value;

use crate::RedisStorage;
use crate::answer;
use crate::codec::{self, NONE};
use crate::errors::odd;
use crate::keys::Key;
use crate::link::Args;
use crate::scripts::{DUE, KNOW_CRONTABS};

#[async_trait]
impl Schedules for RedisStorage {
    async fn known_crontabs(&self) -> Result<Vec<KnownCrontab>> {
        const ACTION: &str = "read the crontabs";
        let mut command = redis::cmd("HGETALL");
        command.arg(self.link.keys().get(Key::Crontabs));
        let all: HashMap<String, Vec<u8>> = self.link.read(ACTION, &command).await?;
        let known = all.into_iter().map(|(identifier, kept)| {
            let since = codec::time(kept.get(..8)?)?;
            let last = kept.get(8..16).filter(|last| **last != NONE).and_then(codec::time);
            Some(KnownCrontab::new(identifier, since, last))
        });
        let mut known = known.collect::<Option<Vec<_>>>().ok_or_else(|| odd(ACTION))?;
        known.sort_unstable_by(|a, b| a.identifier.cmp(&b.identifier));
        Ok(known)
    }

    async fn register_crontabs(&self, identifiers: &[String], since: DateTime<Utc>) -> Result<()> {
        let mut args: Args = vec![[codec::moment(since), NONE].concat()];
        args.extend(identifiers.iter().map(|identifier| identifier.clone().into_bytes()));
        self.link.run("register the crontabs", &KNOW_CRONTABS, args).await.map(drop)
    }

    async fn add_due(&self, moment: DateTime<Utc>, due: &[DueJob]) -> Result<Vec<Option<Job>>> {
        const ACTION: &str = "add the crontab's jobs";
        let mut args: Args = vec![codec::moment(moment).to_vec()];
        for DueJob { identifier, job } in due {
            args.extend([
                identifier.clone().into_bytes(),
                codec::head(job),
                b"1".to_vec(),
                job.payload.as_str().into(),
            ]);
        }
        let answered = self.link.run(ACTION, &DUE, args).await?;
        let read = || {
            let [now, added] = answer::parts(answered)?;
            let now = answer::time(now)?;
            let added = answer::list(added)?;
            if added.len() != due.len() {
                return None;
            }
            let jobs = due.iter().zip(added).map(|(due, value)| match value {
                Value::Nil => Some(None),
                value => answer::added(std::slice::from_ref(&due.job), now, &mut [value].into_iter())?.pop().map(Some),
            });
            jobs.collect()
        };
        read().ok_or_else(|| odd(ACTION))
    }
}
