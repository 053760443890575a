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

/// A job that was stored at this time, by what `add_jobs` says of it: its id, or the job that was changed instead.
pub(crate) fn added(new: &NewJob, now: DateTime<Utc>, value: Value) -> Option<Job> {
    match value {
        Value::Array(_) => {
            let [id, kept, payload] = parts(value)?.map(bytes);
            codec::job(&id?, &kept?, codec::payload(payload?))
        }
        id => Some(new.stored(codec::job_id(&bytes(id)?)?, new.due(now), now)),
    }
}
