//! Which jobs an assertion is about.

use std::any::type_name;
use std::fmt;
use std::marker::PhantomData;

use chrono::{DateTime, SubsecRound, Utc};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::json::lacks;
use super::span::{Span, due};
use crate::job::{Job, JobState, Priority, TaskPayload};

/// Describes jobs: a task, and conditions. Made by [`job`] and [`job_named`]. A job matches if it meets all of them.
#[must_use = "a description asserts nothing by itself"]
pub struct JobMatcher<P> {
    task: String,
    conditions: Vec<Condition>,
    payload: PhantomData<fn() -> P>,
}

/// One condition.
struct Condition {
    /// The field of the job.
    field: &'static str,
    /// The value that was asked for, for people.
    wanted: String,
    /// The difference of a job, if it has one, for people.
    differs: Box<Differs>,
}

type Differs = dyn Fn(&Job, DateTime<Utc>) -> Option<String> + Send + Sync;

/// Jobs of the task that this payload is for. Their payloads can be read as this type.
///
/// ```
/// use backfill::TaskPayload;
/// use backfill::testing::{job, within};
///
/// #[derive(serde::Serialize, serde::Deserialize, TaskPayload)]
/// struct Welcome {
///     to: String,
/// }
///
/// let mail = job::<Welcome>()
///     .payload_with(|mail| mail.to.ends_with("@example.com"))
///     .queue("mail")
///     .due_in(within("1h", "5s"));
/// # let _ = mail;
/// ```
pub fn job<P: TaskPayload + DeserializeOwned>() -> JobMatcher<P> {
    let name = short_name::<P>();
    let matcher = JobMatcher::of(P::TASK.to_owned());
    matcher.and("payload", format!("readable as {name}"), move |job, _| {
        let error = job.payload.decode::<P>().err()?;
        Some(format!("{name} cannot be read from {}: {error}", job.payload))
    })
}

/// Jobs of the task of this name, with any payload.
///
/// ```
/// use backfill::testing::job_named;
/// use backfill::serde_json::json;
///
/// let charge = job_named("charge_card").payload_has(json!({ "order": 17 }));
/// # let _ = charge;
/// ```
pub fn job_named(task: impl Into<String>) -> JobMatcher<Value> {
    JobMatcher::of(task.into())
}

impl<P> JobMatcher<P> {
    fn of(task: String) -> Self {
        Self { task, conditions: Vec::new(), payload: PhantomData }
    }

    fn and(
        mut self,
        field: &'static str,
        wanted: impl Into<String>,
        differs: impl Fn(&Job, DateTime<Utc>) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.conditions.push(Condition { field, wanted: wanted.into(), differs: Box::new(differs) });
        self
    }

    /// A field that is compared as the text that people read.
    fn shown<T: fmt::Debug + PartialEq + Send + Sync + 'static>(
        self,
        field: &'static str,
        wanted: T,
        found: impl Fn(&Job) -> T + Send + Sync + 'static,
    ) -> Self {
        self.and(field, format!("{wanted:?}"), move |job, _| {
            let found = found(job);
            (found != wanted).then(|| format!("it is {found:?}, and should be {wanted:?}"))
        })
    }

    /// The payload contains this: an object may have more keys, at any depth. Arrays have the same length.
    pub fn payload_has(self, part: Value) -> Self {
        self.and("payload", format!("has {part}"), move |job, _| match job.payload.decode::<Value>() {
            Ok(found) => lacks(&found, &part),
            Err(error) => Some(format!("it is no JSON: {error}")),
        })
    }

    /// The payload is exactly this, as JSON: the order of keys does not matter.
    pub fn payload_is(self, whole: Value) -> Self {
        self.and("payload", format!("is {whole}"), move |job, _| match job.payload.decode::<Value>() {
            Ok(found) => (found != whole).then(|| format!("it is {found}, and should be {whole}")),
            Err(error) => Some(format!("it is no JSON: {error}")),
        })
    }

    /// It is in the serial queue of this name.
    pub fn queue(self, name: impl Into<String>) -> Self {
        self.optional("queue", name.into(), |job| job.queue.as_deref())
    }

    /// It has this key.
    pub fn key(self, key: impl Into<String>) -> Self {
        self.optional("key", key.into(), |job| job.key.as_deref())
    }

    fn optional(
        self,
        field: &'static str,
        wanted: String,
        found: impl Fn(&Job) -> Option<&str> + Send + Sync + 'static,
    ) -> Self {
        self.and(field, format!("{wanted:?}"), move |job, _| match found(job) {
            Some(found) if found == wanted => None,
            Some(found) => Some(format!("it is {found:?}, and should be {wanted:?}")),
            None => Some(format!("it has none, and should have {wanted:?}")),
        })
    }

    /// It has this priority.
    pub fn priority(self, priority: impl Into<Priority>) -> Self {
        self.shown("priority", priority.into().0, |job| job.priority.0)
    }

    /// It has exactly these flags, in any order.
    pub fn flags<S: Into<String>>(self, flags: impl IntoIterator<Item = S>) -> Self {
        let mut flags: Vec<String> = flags.into_iter().map(Into::into).collect();
        flags.sort_unstable();
        self.shown("flags", flags, |job| job.flags.clone())
    }

    /// It was started so often.
    pub fn attempts(self, attempts: i16) -> Self {
        self.shown("attempts", attempts, |job| job.attempts)
    }

    /// It may be started so often.
    pub fn max_attempts(self, attempts: i16) -> Self {
        self.shown("max_attempts", attempts, |job| job.max_attempts)
    }

    /// Its last attempt failed with an error that contains this text.
    pub fn last_error(self, part: impl Into<String>) -> Self {
        let part = part.into();
        self.and("last_error", format!("contains {part:?}"), move |job, _| match &job.last_error {
            Some(error) if error.contains(&part) => None,
            Some(error) => Some(format!("it is {error:?}, and should contain {part:?}")),
            None => Some(format!("it has none, and should contain {part:?}")),
        })
    }

    /// It is due about so long after the moment when the jobs were read. An overdue job is due in no time.
    pub fn due_in(self, span: Span) -> Self {
        self.and("due", format!("in {span}"), move |job, now| {
            (!span.fits(now, job.run_at)).then(|| format!("it is {}, and should be in {span}", due(now, job.run_at)))
        })
    }

    /// It is due at this time, in microseconds.
    pub fn due_at(self, time: DateTime<Utc>) -> Self {
        self.and("due", format!("at {time}"), move |job, _| {
            let differs = job.run_at.trunc_subsecs(6) != time.trunc_subsecs(6);
            differs.then(|| format!("it is at {}, and should be at {time}", job.run_at))
        })
    }

    /// It is in this state.
    pub fn state(self, state: JobState) -> Self {
        self.and("state", state.to_string(), move |job, now| {
            let found = job.state(now);
            (found != state).then(|| format!("it is {found}, and should be {state}"))
        })
    }

    /// The task's name.
    pub(super) fn task(&self) -> &str {
        &self.task
    }

    pub(super) fn matches(&self, job: &Job, now: DateTime<Utc>) -> bool {
        job.task == self.task && self.conditions.iter().all(|condition| (condition.differs)(job, now).is_none())
    }

    /// The differences of a job, field by field. A job of another task differs in its task alone.
    pub(super) fn differences(&self, job: &Job, now: DateTime<Utc>) -> Vec<(&'static str, String)> {
        if job.task != self.task {
            return vec![("task", format!("it is {:?}, and should be {:?}", job.task, self.task))];
        }
        let differs = |condition: &Condition| Some((condition.field, (condition.differs)(job, now)?));
        self.conditions.iter().filter_map(differs).collect()
    }
}

impl<P: DeserializeOwned + 'static> JobMatcher<P> {
    /// The payload, read as its type, fits. A payload that cannot be read does not.
    pub fn payload_with(self, fits: impl Fn(&P) -> bool + Send + Sync + 'static) -> Self {
        self.and("payload", "fits", move |job, _| match job.payload.decode::<P>() {
            Ok(payload) if fits(&payload) => None,
            Ok(_) => Some(format!("{} does not fit", job.payload)),
            Err(error) => Some(format!("{} cannot be read from {}: {error}", short_name::<P>(), job.payload)),
        })
    }
}

/// The last part of a type's path.
fn short_name<P>() -> &'static str {
    let name = type_name::<P>();
    // A type with parameters keeps them whole.
    if name.contains('<') { name } else { name.rsplit("::").next().unwrap_or(name) }
}

impl<P> fmt::Display for JobMatcher<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "task {:?}", self.task)?;
        for Condition { field, wanted, .. } in self.conditions.iter().filter(|it| !it.wanted.starts_with("readable")) {
            write!(f, ", {field} {wanted}")?;
        }
        Ok(())
    }
}

impl<P> fmt::Debug for JobMatcher<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JobMatcher({self})")
    }
}
