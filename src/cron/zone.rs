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

use chrono::{DateTime, NaiveDate, NaiveDateTime, Utc};

/// UTC, or (with the feature `time-zones`) a zone of the IANA database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Zone {
    #[default]
    Utc,
    #[cfg(feature = "time-zones")]
    Named(chrono_tz::Tz),
}

impl Zone {
    /// Finds a zone by its name, such as `Europe/Berlin`.
    pub(super) fn named(name: &str) -> Result<Self, String> {
        if name == "UTC" {
            return Ok(Self::Utc);
        }
        #[cfg(feature = "time-zones")]
        {
            name.parse().map(Self::Named).map_err(|_| "is no time zone: it looks like Europe/Berlin".to_owned())
        }
        #[cfg(not(feature = "time-zones"))]
        {
            Err("needs the feature time-zones of the crate backfill, which this program was built without".to_owned())
        }
    }

    pub(super) fn local(self, time: DateTime<Utc>) -> NaiveDateTime {
        match self {
            Self::Utc => time.naive_utc(),
            #[cfg(feature = "time-zones")]
            Self::Named(zone) => time.with_timezone(&zone).naive_local(),
        }
    }

    pub(super) fn date(self, time: DateTime<Utc>) -> NaiveDate {
        self.local(time).date()
    }

    /// The moments at which a local time is due: one, or two when it comes twice and `rhythm` is asked for. See the
    /// module's rules.
    pub(super) fn moments(self, local: NaiveDateTime, rhythm: bool) -> [Option<DateTime<Utc>>; 2] {
        match self {
            Self::Utc => {
                let _ = rhythm;
                [Some(local.and_utc()), None]
            }
            #[cfg(feature = "time-zones")]
            Self::Named(zone) => {
                use chrono::{LocalResult, TimeZone};
                match zone.from_local_datetime(&local) {
                    LocalResult::Single(time) => [Some(time.to_utc()), None],
                    LocalResult::Ambiguous(first, second) => [Some(first.to_utc()), rhythm.then(|| second.to_utc())],
                    LocalResult::None if rhythm => [None, None],
                    LocalResult::None => [end_of_gap(zone, local), None],
                }
            }
        }
    }
}

/// The moment at which the clocks have gone forward past this local time, which does not exist.
#[cfg(feature = "time-zones")]
fn end_of_gap(zone: chrono_tz::Tz, local: NaiveDateTime) -> Option<DateTime<Utc>> {
    use chrono::{TimeDelta, TimeZone};
    // Clocks change at whole minutes, and the longest gap there ever was is a day.
    (1..=2 * 24 * 60).find_map(|minutes| {
        let later = local.checked_add_signed(TimeDelta::minutes(minutes))?;
        zone.from_local_datetime(&later).earliest().map(|time| time.to_utc())
    })
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Utc => f.write_str("UTC"),
            #[cfg(feature = "time-zones")]
            Self::Named(zone) => f.write_str(zone.name()),
        }
    }
}
