//! Jobs as JSON, for machines: of the binary, of an API.

use chrono::{DateTime, Utc};
use serde::{Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;

use super::{Job, JobId, JobState, Payload};
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
}
