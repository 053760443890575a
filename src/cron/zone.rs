//! The time zone in which a schedule's fields are read.
//!
//! **Daylight saving time.** When clocks go forward, some local times do not exist; when they go back, some exist twice. The
//! rules are those that people know from other crons:
//!
//! - A schedule whose *hour* is restricted (`30 2 * * *`) means a time of day, once a day. If that time is skipped, it is due
//!   at the moment at which the clocks have gone forward; if it comes twice, it is due the first time only.
//! - A schedule whose hour is not restricted (`*/15 * * * *`) means a rhythm. It goes on through both passes of a repeated
//!   hour, and is not made up for an hour that does not exist.

use std::fmt;

#[cfg(feature = "time-zones")]
use chrono::TimeDelta;
use chrono::{DateTime, NaiveDateTime, Utc};
#[cfg(feature = "time-zones")]
use jiff::tz::TimeZone;

#[cfg(feature = "time-zones")]
use super::zone_data;

/// UTC, or (with the feature `time-zones`) a zone of the IANA database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Zone {
    #[default]
    Utc,
    #[cfg(feature = "time-zones")]
    Named(TimeZone),
}

impl Zone {
    /// Finds a zone by its name, such as `Europe/Berlin`.
    pub(super) fn named(name: &str) -> Result<Self, String> {
        if name == "UTC" {
            return Ok(Self::Utc);
        }
        #[cfg(feature = "time-zones")]
        {
            zone_data::find(name).map(Self::Named).ok_or_else(|| {
                let names = zone_data::names();
                let meant = crate::nearest::did_you_mean(name, names.iter().map(String::as_str));
                format!("is no time zone: it looks like Europe/Berlin{meant}")
            })
        }
        #[cfg(not(feature = "time-zones"))]
        {
            Err("needs the feature time-zones of the crate backfill, which this program was built without".to_owned())
        }
    }

    /// The first moment after this time at which a schedule is due that is told in local times: `next` answers the first of
    /// them after another. See the module's rules.
    pub(super) fn next_after(
        &self,
        time: DateTime<Utc>,
        rhythm: bool,
        next: impl Fn(NaiveDateTime) -> Option<NaiveDateTime>,
    ) -> Option<DateTime<Utc>> {
        match self {
            Self::Utc => {
                let _ = rhythm;
                next(time.naive_utc()).map(|due| due.and_utc())
            }
            #[cfg(feature = "time-zones")]
            Self::Named(zone) => next_in(zone, time, rhythm, next),
        }
    }
}

/// Goes from one change of the clocks to the next: between two, local times are moments moved by a constant.
#[cfg(feature = "time-zones")]
fn next_in(
    zone: &TimeZone,
    time: DateTime<Utc>,
    rhythm: bool,
    next: impl Fn(NaiveDateTime) -> Option<NaiveDateTime>,
) -> Option<DateTime<Utc>> {
    // At the ends of time there is no local one.
    let margin = TimeDelta::days(2);
    let first = DateTime::from_timestamp(jiff::Timestamp::MIN.as_second(), 0)? + margin;
    let last = DateTime::from_timestamp(jiff::Timestamp::MAX.as_second(), 0)? - margin;
    let time = time.max(first);
    if time > last {
        return None;
    }
    let (mut from, mut from_local) = (time, local(zone, time)?);
    let mut ahead = from_local - time.naive_utc();
    loop {
        let due_local = next(from_local)?;
        let due = due_local.checked_sub_signed(ahead)?.and_utc();
        if due > last {
            return None;
        }
        let Some(change) = first_change(zone, from, due, ahead) else {
            // A time of day that comes twice is due the first time only.
            if rhythm || is_first_pass(zone, due, due_local) {
                return Some(due);
            }
            (from, from_local) = (due, due_local);
            continue;
        };
        let (before, after) = (change.naive_utc().checked_add_signed(ahead)?, local(zone, change)?);
        let instant = TimeDelta::nanoseconds(1);
        if !rhythm && after > before && next(before - instant).is_some_and(|skipped| skipped < after) {
            return Some(change);
        }
        (from, from_local, ahead) = (change, after - instant, after - change.naive_utc());
    }
}

#[cfg(feature = "time-zones")]
fn local(zone: &TimeZone, moment: DateTime<Utc>) -> Option<NaiveDateTime> {
    let ahead = zone.to_offset(jiff::Timestamp::from_second(moment.timestamp()).ok()?).seconds();
    moment.naive_utc().checked_add_signed(TimeDelta::seconds(ahead.into()))
}

/// Whether this local time does not come a second time with this moment.
#[cfg(feature = "time-zones")]
fn is_first_pass(zone: &TimeZone, moment: DateTime<Utc>, local_time: NaiveDateTime) -> bool {
    // No clock goes back by more than a day.
    let earlier = moment.checked_sub_signed(TimeDelta::days(1)).and_then(|moment| {
        let ahead = local(zone, moment)? - moment.naive_utc();
        local_time.checked_sub_signed(ahead).map(|earlier| earlier.and_utc())
    });
    earlier.is_none_or(|earlier| earlier >= moment || local(zone, earlier) != Some(local_time))
}

/// The first change of the clocks after one moment and up to another, if they are this much ahead of UTC at the first.
#[cfg(feature = "time-zones")]
fn first_change(zone: &TimeZone, from: DateTime<Utc>, to: DateTime<Utc>, ahead: TimeDelta) -> Option<DateTime<Utc>> {
    let same = |moment: DateTime<Utc>| local(zone, moment).is_some_and(|local| local - moment.naive_utc() == ahead);
    let mut before = from;
    while before < to {
        // No zone has changed its clocks and changed them back within hours.
        let after = before.checked_add_signed(TimeDelta::hours(6)).map_or(to, |step| step.min(to));
        if same(after) {
            before = after;
            continue;
        }
        // Clocks change at whole seconds.
        let (mut low, mut high) = (before.timestamp(), after.timestamp());
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if same(DateTime::from_timestamp(middle, 0)?) { low = middle } else { high = middle }
        }
        return DateTime::from_timestamp(high, 0);
    }
    None
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Utc => f.write_str("UTC"),
            #[cfg(feature = "time-zones")]
            Self::Named(zone) => f.write_str(zone.iana_name().unwrap_or("an unnamed zone")),
        }
    }
}
