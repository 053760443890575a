//! Jobs as JSON, for machines: of the binary, of an API.

use std::ops::{Deref, DerefMut};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;

use super::{Job, JobId, JobState, Payload, Priority};
use crate::json::rfc3339;

/// A job and its state at a time, as JSON: [`Job::with_state_at`].
#[derive(Clone, Copy, Debug)]
pub struct JobWithState<'a> {
    job: &'a Job,
    state: JobState,
    why: Option<&'a Value>,
}

impl<'a> JobWithState<'a> {
    /// The same, with what is known of why it does not run.
    #[must_use]
    pub fn why(self, why: &'a Value) -> Self {
        Self { why: Some(why), ..self }
    }
}

impl Job {
    /// This job with its state at this time, to be serialised. A job alone is serialised without its state, which goes by the clock.
    #[must_use]
    pub fn with_state_at(&self, now: DateTime<Utc>) -> JobWithState<'_> {
        JobWithState { job: self, state: self.state(now), why: None }
    }
}

#[derive(Serialize)]
struct Shape<'a> {
    id: JobId,
    task: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<JobState>,
    queue: Option<&'a str>,
    payload: &'a Payload,
    priority: i16,
    run_at: String,
    attempts: i16,
    max_attempts: i16,
    last_error: Option<&'a str>,
    created_at: String,
    updated_at: String,
    key: Option<&'a str>,
    revision: i32,
    flags: &'a [String],
    locked_at: Option<String>,
    locked_by: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<&'a Value>,
}

fn shape<'a>(job: &'a Job, state: Option<JobState>, why: Option<&'a Value>) -> Shape<'a> {
    Shape {
        id: job.id,
        task: &job.task,
        state,
        queue: job.queue.as_deref(),
        payload: &job.payload,
        priority: job.priority.0,
        run_at: rfc3339(job.run_at),
        attempts: job.attempts,
        max_attempts: job.max_attempts,
        last_error: job.last_error.as_deref(),
        created_at: rfc3339(job.created_at),
        updated_at: rfc3339(job.updated_at),
        key: job.key.as_deref(),
        revision: job.revision,
        flags: &job.flags,
        locked_at: job.locked_at.map(rfc3339),
        locked_by: job.locked_by.as_deref(),
        why,
    }
}

impl Serialize for Job {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        shape(self, None, None).serialize(serializer)
    }
}

impl Serialize for JobWithState<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        shape(self.job, Some(self.state), self.why).serialize(serializer)
    }
}

/// A job as one document, for storages that keep it as a whole: every field, the payload byte for byte, times to the microsecond.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "Document", into = "Document")]
pub struct StoredJob(pub Job);

impl Deref for StoredJob {
    type Target = Job;

    fn deref(&self) -> &Job {
        &self.0
    }
}

impl DerefMut for StoredJob {
    fn deref_mut(&mut self) -> &mut Job {
        &mut self.0
    }
}

/// A document that was written before a field existed has that field's default.
#[derive(Serialize, Deserialize)]
struct Document {
    id: JobId,
    task: String,
    payload: String,
    queue: Option<String>,
    priority: i16,
    run_at: i64,
    attempts: i16,
    max_attempts: i16,
    last_error: Option<String>,
    created_at: i64,
    updated_at: i64,
    key: Option<String>,
    revision: i32,
    flags: Vec<String>,
    locked_at: Option<i64>,
    locked_by: Option<String>,
}

impl From<StoredJob> for Document {
    fn from(StoredJob(job): StoredJob) -> Self {
        Self {
            id: job.id,
            task: job.task,
            payload: job.payload.as_str().to_owned(),
            queue: job.queue,
            priority: job.priority.0,
            run_at: job.run_at.timestamp_micros(),
            attempts: job.attempts,
            max_attempts: job.max_attempts,
            last_error: job.last_error,
            created_at: job.created_at.timestamp_micros(),
            updated_at: job.updated_at.timestamp_micros(),
            key: job.key,
            revision: job.revision,
            flags: job.flags,
            locked_at: job.locked_at.map(|time| time.timestamp_micros()),
            locked_by: job.locked_by,
        }
    }
}

impl From<Document> for StoredJob {
    fn from(document: Document) -> Self {
        // Every number was a time when it was written.
        let time = |micros| DateTime::from_timestamp_micros(micros).unwrap_or(DateTime::<Utc>::MAX_UTC);
        Self(Job {
            id: document.id,
            task: document.task,
            payload: Payload::from_trusted(document.payload),
            queue: document.queue,
            priority: Priority(document.priority),
            run_at: time(document.run_at),
            attempts: document.attempts,
            max_attempts: document.max_attempts,
            last_error: document.last_error,
            created_at: time(document.created_at),
            updated_at: time(document.updated_at),
            key: document.key,
            revision: document.revision,
            flags: document.flags,
            locked_at: document.locked_at.map(time),
            locked_by: document.locked_by,
        })
    }
}

impl Serialize for JobState {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// As the JSON that it is, for `serde_json`. Line breaks, which outside of strings are mere white space and inside cannot occur, become
/// spaces, so a document stays on its line. What a storage answers that is no JSON becomes null.
impl Serialize for Payload {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let line = self.as_str().replace(['\n', '\r'], " ");
        RawValue::from_string(line).unwrap_or_else(|_| RawValue::NULL.to_owned()).serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use chrono::{SubsecRound, TimeDelta};

    use super::*;

    #[test]
    fn a_job_is_written_with_every_field_and_its_payload_as_it_is() {
        let now = DateTime::UNIX_EPOCH;
        let payload = Payload::from_json("{\"n\":\n 12345678901234567890123}").expect("JSON");
        let mut job = Job::new(7, "t", payload, now);
        job.key = Some("k".to_owned());
        let text = serde_json::to_string(&job.with_state_at(now)).expect("JSON");
        let expected = "{\"id\":7,\"task\":\"t\",\"state\":\"ready\",\"queue\":null,\"payload\":{\"n\":  12345678901234567890123},\
                        \"priority\":0,\"run_at\":\"1970-01-01T00:00:00Z\",\"attempts\":0,\"max_attempts\":25,\"last_error\":null,\
                        \"created_at\":\"1970-01-01T00:00:00Z\",\"updated_at\":\"1970-01-01T00:00:00Z\",\"key\":\"k\",\"revision\":0,\
                        \"flags\":[],\"locked_at\":null,\"locked_by\":null}";
        assert_eq!(text, expected);
        let alone = serde_json::to_string(&job).expect("JSON");
        assert_eq!(alone, expected.replace("\"state\":\"ready\",", ""));
        job.payload = Payload::from_trusted("no JSON".to_owned());
        assert!(serde_json::to_string(&job).expect("JSON").contains("\"payload\":null"));
    }

    #[test]
    fn a_stored_job_comes_back_as_it_was() {
        let now = DateTime::from_timestamp_micros(1_764_477_687_123_456).expect("a time");
        let mut job = Job::new(7, "t", Payload::from_json("{\n\"n\" : 12345678901234567890123}").expect("JSON"), now);
        job.priority = Priority(-3);
        (job.queue, job.key) = (Some("q".to_owned()), Some("k".to_owned()));
        (job.attempts, job.max_attempts, job.revision) = (2, 9, 4);
        (job.run_at, job.updated_at) = (DateTime::<Utc>::MAX_UTC.trunc_subsecs(6), now + TimeDelta::seconds(1));
        job.flags = vec!["a".to_owned(), "b".to_owned()];
        (job.last_error, job.locked_at, job.locked_by) = (Some("x\0".to_owned()), Some(now), Some("w".to_owned()));
        let text = serde_json::to_string(&StoredJob(job.clone())).expect("JSON");
        assert_eq!(serde_json::from_str::<StoredJob>(&text).expect("a job").0, job);
    }
}
