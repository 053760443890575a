//! Writing what was decided here.
//!
//! Claims, results and new jobs are judged by scripts. Everything rarer is judged in Rust, by the rules that all storages share: what a decision rests on is
//! read, and written together with it, by one script that does so only if it is still the same. Otherwise somebody else has been quicker, and the
//! decision is made anew.

use backfill_core::error::FailureKind;
use backfill_core::job::{Job, JobId, NewJob, Payload};
use backfill_core::storage::messages::{Changes, Names, NewEvent};
use backfill_core::{Error, Result};

use crate::answer;
use crate::codec;
use crate::errors::odd;
use crate::keys::Key;
use crate::link::{Args, Link};
use crate::scripts::{COMMIT, COMMIT_NEW};

/// How often a decision is made anew while others change what it rests on.
pub(crate) const TRIES: u32 = 100;

/// A job as it is kept; `None` if it is not there.
pub(crate) type Kept = Option<Vec<u8>>;

/// What was read, and what to write.
#[derive(Default)]
pub(crate) struct Commit<'a> {
    pub(crate) read_jobs: Vec<(JobId, Kept)>,
    pub(crate) read_documents: Vec<(Vec<u8>, Kept)>,
    pub(crate) read_keys: Vec<(String, Option<JobId>)>,
    pub(crate) read_workers: Vec<(String, bool)>,
    pub(crate) jobs: Vec<(JobId, Kept, Option<&'a Payload>)>,
    pub(crate) freed: Vec<(String, [u8; 8], String)>,
    pub(crate) documents: Vec<(Vec<u8>, Kept)>,
    pub(crate) batches: Vec<&'a [NewJob]>,
    pub(crate) events: Vec<&'a NewEvent>,
    /// How many jobs may be ready now.
    pub(crate) ready: usize,
    pub(crate) changes: Changes,
}

/// What was written.
pub(crate) struct Committed {
    /// The jobs that were added, batch by batch.
    pub(crate) added: Vec<Job>,
    pub(crate) positions: Vec<u64>,
}

impl<'a> Commit<'a> {
    pub(crate) fn delete(&mut self, id: JobId) {
        self.jobs.push((id, None, None));
    }

    /// The same of a job that an administrator deletes: if its lock is so old that it counts no more, it may still hold its queue.
    pub(crate) fn delete_free(&mut self, job: &Job) {
        self.delete(job.id);
        if let (Some(queue), Some(locked_at), Some(holder)) = (&job.queue, job.locked_at, &job.locked_by) {
            self.freed.push((queue.clone(), codec::moment(locked_at), holder.clone()));
        }
    }

    /// A job is so, with the payload that it had: of so many bytes.
    pub(crate) fn keep(&mut self, job: &Job, payload_bytes: u32) {
        self.jobs.push((job.id, Some(codec::kept(job, payload_bytes)), None));
    }

    /// The same with another payload.
    pub(crate) fn keep_with(&mut self, job: &Job, payload: &'a Payload) {
        self.jobs.push((job.id, Some(codec::kept(job, codec::length_of(payload))), Some(payload)));
    }

    fn args(&self, keys_before: usize) -> Args {
        let mut args = Args::new();
        let mut push = |bytes: &[u8]| args.push(bytes.to_vec());
        let number = |number: usize| number.to_string().into_bytes();
        let kept = |kept: &Kept| kept.clone().unwrap_or_default();
        push(&number(self.read_jobs.len()));
        for (id, was) in &self.read_jobs {
            push(&codec::id(*id));
            push(&kept(was));
        }
        push(&number(self.read_documents.len()));
        for (field, was) in &self.read_documents {
            push(field);
            push(&kept(was));
        }
        push(&number(self.read_keys.len()));
        for (key, id) in &self.read_keys {
            push(key.as_bytes());
            push(&id.map(|id| codec::id(id).to_vec()).unwrap_or_default());
        }
        push(&number(self.read_workers.len()));
        for (worker, there) in &self.read_workers {
            push(worker.as_bytes());
            push(if *there { b"1" } else { b"0" });
        }
        push(&number(self.jobs.len()));
        for (id, new, payload) in &self.jobs {
            push(&codec::id(*id));
            push(&kept(new));
            push(if payload.is_some() { b"1" } else { b"0" });
            push(payload.map_or("", Payload::as_str).as_bytes());
        }
        push(&number(self.freed.len()));
        for (queue, moment, holder) in &self.freed {
            push(queue.as_bytes());
            push(moment);
            push(holder.as_bytes());
        }
        push(&number(self.documents.len()));
        for (field, new) in &self.documents {
            push(field);
            push(&kept(new));
        }
        push(&number(self.batches.len()));
        for batch in &self.batches {
            codec::push_runs(&mut args, batch);
        }
        let mut push = |bytes: &[u8]| args.push(bytes.to_vec());
        push(&number(self.events.len()));
        for (place, event) in self.events.iter().enumerate() {
            push(&number(keys_before + place + 1));
            push(event.stream.as_bytes());
            push(event.payload.as_str().as_bytes());
        }
        push(&number(self.ready));
        for names in [&self.changes.lines, &self.changes.documents, &self.changes.streams] {
            push(told(names).as_bytes());
        }
        args
    }

    /// Writes it; `None` if something is not as it was read.
    pub(crate) async fn send(&self, action: &'static str, link: &Link) -> Result<Option<Committed>> {
        let streams: Vec<Vec<u8>> = self.events.iter().map(|event| link.keys().stream(&event.stream)).collect();
        let args = self.args(link.keys().all().len());
        // When memory is full, what ends no job waits.
        let script = if self.jobs.is_empty() { &COMMIT_NEW } else { &COMMIT };
        let answered = link.run_with(action, script, &streams, args).await?;
        if answered == redis::Value::Nil {
            return Ok(None);
        }
        let read = || {
            let [now, added, positions] = answer::parts(answered)?;
            let now = answer::time(now)?;
            let mut answers = answer::list(added)?.into_iter();
            let added = self.batches.iter().map(|batch| answer::added(batch, now, &mut answers));
            let positions = answer::list(positions)?.into_iter();
            Some(Committed {
                added: added.collect::<Option<Vec<_>>>()?.concat(),
                positions: positions.map(|value| answer::number(&value)?.try_into().ok()).collect::<Option<_>>()?,
            })
        };
        read().map(Some).ok_or_else(|| odd(action))
    }
}

/// Each name before a NUL; `*` for all.
fn told(names: &Names) -> String {
    match names {
        Names::All => "*".to_owned(),
        Names::These(names) => names.iter().flat_map(|name| [name.as_str(), "\0"]).collect(),
    }
}

/// The names that were told.
pub(crate) fn heard(text: &str) -> Names {
    if text == "*" { Names::All } else { Names::These(text.split_terminator('\0').map(str::to_owned).collect()) }
}

pub(crate) fn busy(action: &'static str) -> Error {
    Error::storage(action, FailureKind::Conflict, "others change the same jobs or documents all the time; try again")
}

/// Jobs as they are kept, in the order in which they are asked for.
pub(crate) async fn read_kept(action: &'static str, link: &Link, ids: &[JobId]) -> Result<Vec<Kept>> {
    let fields: Vec<[u8; 8]> = ids.iter().map(|id| codec::id(*id)).collect();
    read_fields(action, link, Key::Jobs, &fields).await
}

/// Fields of a hash, in the order in which they are asked for.
pub(crate) async fn read_fields<T: AsRef<[u8]>>(
    action: &'static str,
    link: &Link,
    key: Key,
    fields: &[T],
) -> Result<Vec<Option<Vec<u8>>>> {
    let mut values = Vec::with_capacity(fields.len());
    for part in fields.chunks(1_000) {
        let mut command = redis::cmd("HMGET");
        command.arg(link.keys().get(key));
        for field in part {
            command.arg(field.as_ref());
        }
        values.extend(link.read::<Vec<Option<Vec<u8>>>>(action, &command).await?);
    }
    Ok(values)
}
