//! How a job is kept: the same as in `lua/lib.lua`.
//!
//! A job is two values: its payload, byte for byte, and the rest, which is 47 bytes of numbers and then six texts with a NUL between them. No name
//! of ours holds a NUL. Moments are 8 bytes that sort as they do.

use backfill_core::job::{Job, JobId, JobKeyMode, NewJob, Payload, Priority, RunAt};
use backfill_core::storage::WorkerId;
use backfill_core::storage::messages::{Document, DocumentKey};
use chrono::{DateTime, Utc};

/// Nobody holds it; or it has no end.
pub(crate) const NONE: [u8; 8] = [0; 8];
/// How many bytes the numbers of a job have.
const NUMBERS: usize = 47;
const SIGN: u64 = 1 << 63;

pub(crate) fn moment(time: DateTime<Utc>) -> [u8; 8] {
    (time.timestamp_micros().cast_unsigned() ^ SIGN).to_be_bytes()
}

/// The time that these bytes are.
pub(crate) fn time(bytes: &[u8]) -> Option<DateTime<Utc>> {
    let micros = u64::from_be_bytes(bytes.try_into().ok()?) ^ SIGN;
    DateTime::from_timestamp_micros(micros.cast_signed())
}

pub(crate) fn id(id: JobId) -> [u8; 8] {
    id.number().to_be_bytes()
}

pub(crate) fn job_id(bytes: &[u8]) -> Option<JobId> {
    Some(JobId::from_number(i64::from_be_bytes(bytes.try_into().ok()?)))
}

/// Priorities sort as bytes when they are counted from the least.
pub(crate) fn priority(priority: Priority) -> [u8; 2] {
    (priority.0.cast_unsigned() ^ 0x8000).to_be_bytes()
}

fn flags(flags: &[String]) -> String {
    // A list of texts always is JSON.
    if flags.is_empty() { String::new() } else { serde_json::to_string(flags).unwrap_or_default() }
}

fn length(payload: &Payload) -> [u8; 4] {
    u32::try_from(payload.as_str().len()).unwrap_or(u32::MAX).to_be_bytes()
}

/// What `add_runs` gets of a new job beside its payload.
pub(crate) fn head(new: &NewJob) -> Vec<u8> {
    let (queue, key) = (new.queue.as_deref().unwrap_or_default(), new.key.as_deref().unwrap_or_default());
    let mode = match new.key_mode {
        JobKeyMode::Replace => 0,
        JobKeyMode::PreserveRunAt => 1,
        JobKeyMode::UnsafeDedupe => 2,
    };
    let (kind, when) = match new.run_at {
        None => (0, NONE),
        Some(RunAt::Time(time)) => (1, moment(time)),
        Some(RunAt::In(delay)) => (2, u64::try_from(delay.as_micros()).unwrap_or(u64::MAX).to_be_bytes()),
    };
    let mut head = Vec::with_capacity(24 + new.task.len() + queue.len() + key.len());
    head.extend([mode, kind]);
    head.extend(when);
    head.extend(new.max_attempts.to_be_bytes());
    head.extend(priority(new.priority));
    for text in [new.task.as_str(), queue, key] {
        head.extend(text.as_bytes());
        head.push(0);
    }
    head.extend(flags(&new.flags).into_bytes());
    head
}

/// Appends jobs to be added: how many runs there are, and of each a head, how many jobs it has, and their payloads. A run is of jobs that
/// follow each other and differ in nothing else.
pub(crate) fn push_runs(args: &mut Vec<Vec<u8>>, jobs: &[NewJob]) {
    let mut runs = 0;
    let place = args.len();
    args.push(Vec::new());
    for run in jobs.chunk_by(is_alike) {
        runs += 1;
        args.push(head(&run[0]));
        args.push(run.len().to_string().into_bytes());
        args.extend(run.iter().map(|job| job.payload.as_str().into()));
    }
    args[place] = runs.to_string().into_bytes();
}

/// Whether two jobs differ in their payloads at the most.
pub(crate) fn is_alike(a: &NewJob, b: &NewJob) -> bool {
    a.key.is_none()
        && b.key.is_none()
        && a.task == b.task
        && a.queue == b.queue
        && a.run_at == b.run_at
        && a.max_attempts == b.max_attempts
        && a.priority == b.priority
        && a.flags == b.flags
}

/// What is kept of a job beside its payload, which has so many bytes.
pub(crate) fn kept(job: &Job, payload_bytes: u32) -> Vec<u8> {
    let mut kept = Vec::with_capacity(NUMBERS + 64);
    kept.extend(job.attempts.to_be_bytes());
    kept.extend(job.max_attempts.to_be_bytes());
    kept.extend(priority(job.priority));
    kept.extend(job.revision.to_be_bytes());
    kept.extend(payload_bytes.to_be_bytes());
    let has = |bit: u8, has: bool| if has { bit } else { 0 };
    kept.push(has(1, job.queue.is_some()) | has(2, job.key.is_some()) | has(4, !job.flags.is_empty()));
    for time in [job.run_at, job.created_at, job.updated_at] {
        kept.extend(moment(time));
    }
    kept.extend(job.locked_at.map_or(NONE, moment));
    let [queue, key, holder] = [&job.queue, &job.key, &job.locked_by].map(|text| text.as_deref().unwrap_or_default());
    for text in [holder, job.task.as_str(), queue, key, &flags(&job.flags)] {
        kept.extend(text.as_bytes());
        kept.push(0);
    }
    kept.extend(job.last_error.as_deref().map_or(String::new(), |error| format!("!{error}")).into_bytes());
    kept
}

/// How many bytes the payload of a kept job has.
pub(crate) fn payload_bytes(kept: &[u8]) -> u32 {
    kept.get(10..14).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_be_bytes)
}

/// The same for a payload that takes its place.
pub(crate) fn length_of(payload: &Payload) -> u32 {
    u32::from_be_bytes(length(payload))
}

/// The job that was kept so; `None` if these bytes are none.
pub(crate) fn job(id: &[u8], kept: &[u8], payload: Payload) -> Option<Job> {
    let number = |at: usize| Some(i16::from_be_bytes(kept.get(at..at + 2)?.try_into().ok()?));
    let moment = |at: usize| kept.get(at..at + 8);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut texts = kept.get(NUMBERS..)?.splitn(6, |byte| *byte == 0);
    let mut next = || texts.next();
    let named = |bytes: &[u8]| (!bytes.is_empty()).then(|| text(bytes));
    let locked_by = named(next()?);
    let mut job = Job::new(job_id(id)?, text(next()?), payload, time(moment(23)?)?);
    job.attempts = number(0)?;
    job.max_attempts = number(2)?;
    job.priority = Priority((number(4)?.cast_unsigned() ^ 0x8000).cast_signed());
    job.revision = i32::from_be_bytes(kept.get(6..10)?.try_into().ok()?);
    job.run_at = time(moment(15)?)?;
    job.updated_at = time(moment(31)?)?;
    job.locked_at = moment(39).filter(|bytes| **bytes != NONE).and_then(time);
    job.queue = named(next()?);
    job.key = named(next()?);
    let flags = next()?;
    job.flags = if flags.is_empty() { Vec::new() } else { serde_json::from_slice(flags).ok()? };
    job.locked_by = locked_by;
    job.last_error = next()?.strip_prefix(b"!").map(text);
    Some(job)
}

/// A payload as it is kept.
pub(crate) fn payload(bytes: Vec<u8>) -> Payload {
    match String::from_utf8(bytes) {
        Ok(text) => Payload::from_trusted(text),
        Err(error) => Payload::from_damaged(String::from_utf8_lossy(error.as_bytes()).into_owned()),
    }
}

/// Where a document is kept.
pub(crate) fn field(key: &DocumentKey) -> Vec<u8> {
    [key.kind.as_bytes(), b"\0", key.key.as_bytes()].concat()
}

pub(crate) fn document_key(field: &[u8]) -> Option<DocumentKey> {
    let end = field.iter().position(|byte| *byte == 0)?;
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
    Some(DocumentKey::new(text(&field[..end])?, text(&field[end + 1..])?))
}

pub(crate) fn kept_document(document: &Document) -> Vec<u8> {
    let mut kept = document.version.to_be_bytes().to_vec();
    kept.extend(document.until.map_or(NONE, moment));
    kept.extend(document.owner.as_ref().map_or("", WorkerId::as_str).as_bytes());
    kept.push(0);
    kept.extend(document.value.as_str().as_bytes());
    kept
}

pub(crate) fn document(field: &[u8], kept: &[u8]) -> Option<Document> {
    let owner_end = 16 + kept.get(16..)?.iter().position(|byte| *byte == 0)?;
    let version = u64::from_be_bytes(kept.get(..8)?.try_into().ok()?);
    let mut document = Document::new(document_key(field)?, payload(kept[owner_end + 1..].to_vec()), version);
    document.until = Some(&kept[8..16]).filter(|bytes| **bytes != NONE).and_then(time);
    let owner = String::from_utf8_lossy(&kept[16..owner_end]);
    document.owner = (!owner.is_empty()).then(|| WorkerId::named(owner));
    Some(document)
}

#[cfg(test)]
mod tests {
    use super::*;
    use backfill_core::job::JobSpec;
    use chrono::{SubsecRound, TimeDelta};

    #[test]
    fn a_kept_job_comes_back_as_it_was() {
        let now = DateTime::from_timestamp_micros(1_764_477_687_123_456).expect("a time");
        let mut job = Job::new(7, "t", Payload::from_trusted("[1]".to_owned()), now);
        assert_eq!(super::job(&id(job.id), &kept(&job, 3), job.payload.clone()).as_ref(), Some(&job));
        assert_eq!(payload_bytes(&kept(&job, 3)), 3);
        (job.queue, job.key) = (Some("q é".to_owned()), Some("k".to_owned()));
        (job.attempts, job.max_attempts, job.revision, job.priority) = (2, i16::MAX, i32::MAX, Priority(i16::MIN));
        (job.run_at, job.updated_at) = (DateTime::<Utc>::MAX_UTC.trunc_subsecs(6), now - TimeDelta::days(3_000_000));
        job.flags = vec!["a".to_owned(), "\"b\\\n".to_owned()];
        (job.last_error, job.locked_at, job.locked_by) = (Some("!x\0y".to_owned()), Some(now), Some("w".to_owned()));
        assert_eq!(super::job(&id(job.id), &kept(&job, 3), job.payload.clone()), Some(job));
    }

    #[test]
    fn moments_and_priorities_sort_as_bytes() {
        let now = Utc::now();
        let times = [DateTime::<Utc>::MIN_UTC, now - TimeDelta::days(900_000), now, now + TimeDelta::microseconds(1)];
        assert!(times.map(moment).is_sorted());
        assert!([i16::MIN, -1, 0, 1, i16::MAX].map(|n| priority(Priority(n))).is_sorted());
    }

    #[test]
    fn a_kept_document_comes_back_as_it_was() {
        let now = DateTime::from_timestamp_micros(1_764_477_687_123_456).expect("a time");
        let mut document = Document::new(DocumentKey::new("k é", ""), Payload::from_trusted("{\"a\":1}".to_owned()), 7);
        assert_eq!(super::document(&field(&document.key), &kept_document(&document)).as_ref(), Some(&document));
        (document.until, document.owner) = (Some(now), Some(WorkerId::named("w")));
        assert_eq!(super::document(&field(&document.key), &kept_document(&document)), Some(document));
    }

    #[test]
    fn a_head_has_what_the_script_reads() {
        let new = JobSpec::new("t", 1).key("k").priority(-1).check(100).expect("a job");
        let head = head(&new);
        assert_eq!(head[..2], [0, 0]);
        assert_eq!(head[10..14], [0, 25, 0x7f, 0xff]);
        assert_eq!(head[14..], *b"t\0\0k\0");
    }

    #[test]
    fn jobs_that_differ_in_their_payloads_only_are_one_run() {
        let new = |task: &str, n: i32| JobSpec::new(task, n).check(100).expect("a job");
        let mut args = Vec::new();
        push_runs(&mut args, &[new("a", 1), new("a", 2), new("b", 3)]);
        let texts: Vec<String> = args.iter().map(|arg| String::from_utf8_lossy(arg).into_owned()).collect();
        assert_eq!([&texts[0], &texts[2], &texts[3], &texts[4], &texts[6], &texts[7]], ["2", "2", "1", "2", "1", "3"]);
        let keyed = |key: &str| JobSpec::new("a", 1).key(key).check(100).expect("a job");
        assert!(!is_alike(&keyed("x"), &keyed("y")));
    }
}
