//! When something is due.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::str::FromStr;
use std::sync::Arc;

use chrono::{DateTime, Datelike, TimeDelta, Utc};

use super::Dialect;
use super::pattern::Pattern;
use super::problem::Complaint;
use super::zone::Zone;
use crate::error::{Error, Result};

/// When something is due.
///
/// It is the time fields of a crontab line, an expression of the [`cron`](::cron) crate, or a closure.
///
/// ```
/// use backfill::cron::Schedule;
/// use chrono::Timelike;
///
/// let weekdays_at_four: Schedule = "0 4 * * 1-5".parse()?;
/// let friday = "2026-11-20T04:00:00Z".parse()?;
/// let monday = "2026-11-23T04:00:00Z".parse()?;
/// assert_eq!(weekdays_at_four.next_after(friday), Some(monday));
///
/// let every_ten_seconds = Schedule::expression("*/10 * * * * *")?;
/// let full_moons = Schedule::when(|minute| minute.hour() == 22 /* and the moon is full */ && minute.minute() == 0);
/// # let _ = (every_ten_seconds, full_moons);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Schedule(Kind);

#[derive(Clone)]
enum Kind {
    Pattern(Pattern),
    Expression(Box<::cron::Schedule>, Zone),
    When(Arc<dyn Fn(DateTime<Utc>) -> bool + Send + Sync>),
}

/// The last year of which an expression can say something.
const LAST_YEAR_OF_EXPRESSIONS: i32 = 2100;
/// How far ahead a closure is asked by [`Schedule::next_after`].
const CLOSURE_HORIZON: TimeDelta = TimeDelta::days(366);

impl Schedule {
    /// Reads the time fields of a crontab line, in this dialect and in UTC.
    ///
    /// # Errors
    /// [`Error::InvalidCrontab`] with every problem of the text.
    pub fn parse(text: &str, dialect: Dialect) -> Result<Self> {
        let fields: Vec<(usize, &str)> = super::crontab::words(text).collect();
        Pattern::parse(&fields, dialect).map(Self::from).map_err(|complaints| invalid(complaints, text))
    }

    /// Reads an expression of the [`cron`](::cron) crate: seconds, minutes, hours, date, month, day of week, and perhaps
    /// year. In UTC.
    ///
    /// # Errors
    /// [`Error::InvalidCrontab`] with what that crate said.
    pub fn expression(text: &str) -> Result<Self> {
        text.parse::<::cron::Schedule>()
            .map(Self::from)
            .map_err(|error| invalid(vec![Complaint::new(0, text, format!("is no cron expression: {error}"))], text))
    }

    /// Due in the minutes for which the closure says yes. It is asked at the beginning of each minute; a panic means no.
    #[must_use]
    pub fn when(is_due: impl Fn(DateTime<Utc>) -> bool + Send + Sync + 'static) -> Self {
        Self(Kind::When(Arc::new(is_due)))
    }

    /// Reads the same fields in another time zone, by its IANA name. Needs the feature `time-zones`. A closure is asked in
    /// UTC, whatever is said here.
    ///
    /// When clocks change: a schedule with a restricted hour is due once a day, at the moment the clocks have gone forward
    /// if its time was skipped, and the first time if its time comes twice; one with an unrestricted hour follows the
    /// elapsed time.
    ///
    /// # Errors
    /// [`Error::InvalidCrontab`] for a zone that is not known, or without the feature.
    pub fn in_time_zone(self, name: &str) -> Result<Self> {
        let zone = Zone::named(name).map_err(|problem| invalid(vec![Complaint::new(0, name, problem)], name))?;
        Ok(self.in_zone(zone))
    }

    pub(super) fn in_zone(mut self, zone: Zone) -> Self {
        match &mut self.0 {
            Kind::Pattern(pattern) => pattern.zone = zone,
            Kind::Expression(_, of) => *of = zone,
            Kind::When(_) => {}
        }
        self
    }

    /// Whether it is due in the minute of this time (in its second, if it tells seconds).
    #[must_use]
    pub fn matches(&self, time: DateTime<Utc>) -> bool {
        match &self.0 {
            Kind::Pattern(pattern) => pattern.matches(time),
            Kind::Expression(_, _) => {
                let Some(second) = DateTime::from_timestamp(time.timestamp(), 0) else { return false };
                let before = second.checked_sub_signed(TimeDelta::nanoseconds(1));
                before.is_some_and(|before| self.next_after(before) == Some(second))
            }
            Kind::When(is_due) => ask(is_due, minute_of(time).unwrap_or(time)),
        }
    }

    /// The first due moment after this time, or `None` if there is none (such as the 31st of February). A closure is asked
    /// for every minute of a year.
    #[must_use]
    pub fn next_after(&self, time: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match &self.0 {
            Kind::When(is_due) => {
                let end = time.checked_add_signed(CLOSURE_HORIZON)?;
                let minutes = std::iter::successors(next_minute(time), |minute| next_minute(*minute));
                minutes.take_while(|minute| *minute <= end).find(|minute| ask(is_due, *minute))
            }
            _ => self.candidate_after(time),
        }
    }

    /// The first moment after this time at which it may be due. [`is_due_at`](Self::is_due_at) is to be asked then.
    pub(super) fn candidate_after(&self, time: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match &self.0 {
            Kind::Pattern(pattern) => pattern.next_after(time),
            Kind::Expression(expression, zone) => {
                let rhythm = ::cron::TimeUnitSpec::is_all(expression.hours());
                // The crate steps in UTC, as if it were local time: what happens when clocks change is the zone's affair.
                // It knows the years from 1970 on, up to 2100.
                let time = time.max(DateTime::UNIX_EPOCH - TimeDelta::days(2));
                zone.next_after(time, rhythm, |local| {
                    let is_known = local.year() <= LAST_YEAR_OF_EXPRESSIONS;
                    is_known.then(|| expression.after(&local.and_utc()).next().map(|due| due.naive_utc()))?
                })
            }
            Kind::When(_) => next_minute(time),
        }
    }

    /// Whether a candidate is due indeed.
    pub(super) fn is_due_at(&self, candidate: DateTime<Utc>) -> bool {
        match &self.0 {
            Kind::When(is_due) => ask(is_due, candidate),
            _ => true,
        }
    }

    /// The time zone in which it is read.
    #[must_use]
    pub fn time_zone(&self) -> String {
        match &self.0 {
            Kind::Pattern(Pattern { zone, .. }) | Kind::Expression(_, zone) => zone.to_string(),
            Kind::When(_) => Zone::Utc.to_string(),
        }
    }
}

/// The beginning of its minute. (The calendar library rounds only times of some centuries.)
fn minute_of(time: DateTime<Utc>) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(time.timestamp().div_euclid(60) * 60, 0)
}

fn next_minute(time: DateTime<Utc>) -> Option<DateTime<Utc>> {
    minute_of(time)?.checked_add_signed(TimeDelta::minutes(1))
}

fn ask(is_due: &Arc<dyn Fn(DateTime<Utc>) -> bool + Send + Sync>, minute: DateTime<Utc>) -> bool {
    catch_unwind(AssertUnwindSafe(|| is_due(minute))).unwrap_or_else(|_| {
        tracing::error!(%minute, "a schedule's closure panicked; nothing is due");
        false
    })
}

fn invalid(complaints: Vec<Complaint>, text: &str) -> Error {
    Error::InvalidCrontab(complaints.into_iter().map(|complaint| complaint.at(1, text)).collect())
}

impl FromStr for Schedule {
    type Err = Error;

    /// Reads five fields in Graphile's dialect, in UTC.
    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text, Dialect::Graphile)
    }
}

impl From<::cron::Schedule> for Schedule {
    fn from(expression: ::cron::Schedule) -> Self {
        Self(Kind::Expression(Box::new(expression), Zone::Utc))
    }
}

impl From<Pattern> for Schedule {
    fn from(pattern: Pattern) -> Self {
        Self(Kind::Pattern(pattern))
    }
}

impl PartialEq for Schedule {
    /// Two closures are the same if they are one.
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Kind::Pattern(a), Kind::Pattern(b)) => a == b,
            (Kind::Expression(a, zone), Kind::Expression(b, other)) => a == b && zone == other,
            (Kind::When(a), Kind::When(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Schedule({self})")
    }
}

/// The fields, as a crontab would have them, and their time zone if it is not UTC.
impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let zone = match &self.0 {
            Kind::Pattern(pattern) => {
                write!(f, "{pattern}")?;
                &pattern.zone
            }
            Kind::Expression(expression, zone) => {
                write!(f, "{expression}")?;
                zone
            }
            Kind::When(_) => {
                f.write_str("a closure")?;
                &Zone::Utc
            }
        };
        if *zone == Zone::Utc { Ok(()) } else { write!(f, " {zone}") }
    }
}

#[cfg(test)]
mod tests;
