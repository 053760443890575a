//! Results as the arrays that statements are given.

use chrono::{DateTime, Utc};

use super::micros;
use crate::job::RunAt;
use crate::storage::{Change, ClaimToken, Settlement};

/// The moment of a claim: what its token holds.
pub(super) fn claimed_at(token: ClaimToken) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(token.number()).unwrap_or_default()
}

/// The fences of a batch, one array per value.
pub(super) struct Claims<'a> {
    pub(super) id: Vec<i64>,
    pub(super) locked_at: Vec<DateTime<Utc>>,
    pub(super) queue: Vec<Option<&'a str>>,
    pub(super) had_key: Vec<bool>,
}

impl<'a> Claims<'a> {
    pub(super) fn of(batch: &[&'a Settlement]) -> Self {
        let claims = || batch.iter().map(|settlement| &settlement.claim);
        Self {
            id: claims().map(|claim| claim.id.number()).collect(),
            locked_at: claims().map(|claim| claimed_at(claim.token)).collect(),
            queue: claims().map(|claim| claim.queue.as_deref()).collect(),
            had_key: claims().map(|claim| claim.had_key).collect(),
        }
    }
}

/// What to write, one array per value.
#[derive(Default)]
pub(super) struct Changes<'a> {
    pub(super) outcome: Vec<&'static str>,
    pub(super) error: Vec<Option<String>>,
    pub(super) run_at: Vec<Option<DateTime<Utc>>>,
    pub(super) delay: Vec<Option<i64>>,
    pub(super) payload: Vec<Option<&'a str>>,
}

impl<'a> Changes<'a> {
    pub(super) fn of(batch: &[&'a Settlement]) -> Self {
        let mut changes = Self::default();
        for settlement in batch {
            let Some(Change { kind, error, when, payload, .. }) = settlement.outcome.change() else { continue };
            changes.outcome.push(kind);
            changes.error.push(error);
            changes.run_at.push(match when {
                Some(RunAt::Time(time)) => Some(bounded(time)),
                _ => None,
            });
            changes.delay.push(match when {
                Some(RunAt::In(delay)) => Some(micros(delay)),
                _ => None,
            });
            changes.payload.push(payload.map(crate::job::Payload::as_str));
        }
        changes
    }
}

/// A task may answer any time; one that PostgreSQL cannot hold must not spoil the batch.
pub(in crate::postgres) fn bounded(time: DateTime<Utc>) -> DateTime<Utc> {
    let year = |year, month, day| {
        chrono::NaiveDate::from_ymd_opt(year, month, day).unwrap_or_default().and_time(chrono::NaiveTime::MIN).and_utc()
    };
    time.clamp(year(-4000, 1, 1), year(9999, 12, 31))
}
