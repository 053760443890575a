//! Reading what scripts answer.

use backfill_core::job::{Job, NewJob};
use chrono::{DateTime, Utc};
use redis::Value;

use crate::codec;

pub(crate) fn bytes(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.into_bytes()),
        _ => None,
    }
}

pub(crate) fn list(value: Value) -> Option<Vec<Value>> {
    if let Value::Array(values) = value { Some(values) } else { None }
}

pub(crate) fn number(value: &Value) -> Option<i64> {
    match value {
        Value::Int(number) => Some(*number),
        Value::BulkString(text) => std::str::from_utf8(text).ok()?.parse().ok(),
        _ => None,
    }
}

/// A list of a known length.
pub(crate) fn parts<const N: usize>(value: Value) -> Option<[Value; N]> {
    list(value)?.try_into().ok()
}

pub(crate) fn time(value: Value) -> Option<DateTime<Utc>> {
    codec::time(&bytes(value)?)
}

/// The jobs that were stored at this time, by what `add_runs` says of each run: the id of its first one, or the job that was changed instead.
pub(crate) fn added(
    jobs: &[NewJob],
    now: DateTime<Utc>,
    answers: &mut impl Iterator<Item = Value>,
) -> Option<Vec<Job>> {
    let mut stored = Vec::with_capacity(jobs.len());
    for run in jobs.chunk_by(codec::is_alike) {
        match answers.next()? {
            value @ Value::Array(_) => {
                let [id, kept, payload] = parts(value)?.map(bytes);
                stored.push(codec::job(&id?, &kept?, codec::payload(payload?))?);
            }
            first => {
                let first = codec::job_id(&bytes(first)?)?.number();
                stored.extend(run.iter().zip(first..).map(|(new, id)| new.stored(id, new.due(now), now)));
            }
        }
    }
    Some(stored)
}
