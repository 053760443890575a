//! When something is due.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Datelike, Days, NaiveDate, NaiveTime, Timelike, Utc};

use super::crontab::Complaint;
use super::field::{KINDS, Numbers};
use crate::error::{Error, Result};

/// Minutes at which something is due, in UTC: the five fields of a crontab line.
///
/// ```
/// use backfill::cron::Schedule;
///
/// let weekdays_at_four: Schedule = "0 4 * * 1-5".parse()?;
/// let friday = "2026-11-20T04:00:00Z".parse()?;
/// let monday = "2026-11-23T04:00:00Z".parse()?;
/// assert_eq!(weekdays_at_four.next_after(friday), Some(monday));
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
///
/// Minute, hour and month must all match. Of day of month and day of week, if both are restricted, either may match;
/// if one is, that one must (the rule of every cron, and Graphile's). A field is restricted when it leaves any of its
/// numbers out, so `1-31` and `*/1` are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    fields: [Numbers; 5],
}

/// How far ahead a due day is looked for: the 29th of February comes back within eight years.
const MAX_DAYS: u64 = 366 * 8 + 1;

impl Schedule {
    /// Reads five fields; complaints carry their place within the text that the fields were cut from.
    pub(super) fn from_fields(fields: &[(usize, &str); 5]) -> Result<Self, Vec<Complaint>> {
        let mut complaints = Vec::new();
        let mut numbers = [None; 5];
        for (((start, text), kind), slot) in fields.iter().zip(KINDS).zip(&mut numbers) {
            match Numbers::parse(text, kind) {
                Ok(parsed) => *slot = Some(parsed),
                Err(mut more) => {
                    for complaint in &mut more {
                        complaint.offset += start;
                    }
                    complaints.append(&mut more);
                }
            }
        }
        match numbers {
            [Some(minutes), Some(hours), Some(dates), Some(months), Some(days)] => {
                Ok(Self { fields: [minutes, hours, dates, months, days] })
            }
            _ => Err(complaints),
        }
    }

    /// Whether it is due in the minute of this time.
    #[must_use]
    pub fn matches(&self, time: DateTime<Utc>) -> bool {
        let [minutes, hours, ..] = self.fields;
        minutes.contains(time.minute()) && hours.contains(time.hour()) && self.matches_day(time.date_naive())
    }

    /// The first due minute after this time, or `None` if there is none (such as the 31st of February).
    #[must_use]
    pub fn next_after(&self, time: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let [minutes, hours, ..] = self.fields;
        let first = time.date_naive();
        let due_days = (0..MAX_DAYS).filter_map(|days| first.checked_add_days(Days::new(days)));
        for day in due_days.filter(|day| self.matches_day(*day)) {
            let due_hours = (0..24).filter(|hour| hours.contains(*hour));
            for (hour, minute) in due_hours.flat_map(|hour| (0..60).map(move |minute| (hour, minute))) {
                if !minutes.contains(minute) {
                    continue;
                }
                let due = day.and_time(NaiveTime::from_hms_opt(hour, minute, 0)?).and_utc();
                if due > time {
                    return Some(due);
                }
            }
        }
        None
    }

    fn matches_day(&self, day: NaiveDate) -> bool {
        let [.., dates, months, days] = self.fields;
        let [.., date_kind, _, day_kind] = KINDS;
        let by_date = dates.contains(day.day());
        let by_day = days.contains(day.weekday().num_days_from_sunday());
        let matches = match (dates.is_everything(date_kind), days.is_everything(day_kind)) {
            (true, true) => true,
            (false, true) => by_date,
            (true, false) => by_day,
            (false, false) => by_date || by_day,
        };
        matches && months.contains(day.month())
    }
}

impl FromStr for Schedule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut fields = super::crontab::words(text);
        let five = [fields.next(), fields.next(), fields.next(), fields.next(), fields.next()];
        let complaints = match (five, fields.next()) {
            ([Some(minute), Some(hour), Some(date), Some(month), Some(day)], None) => {
                match Self::from_fields(&[minute, hour, date, month, day]) {
                    Ok(schedule) => return Ok(schedule),
                    Err(complaints) => complaints,
                }
            }
            _ => vec![Complaint {
                offset: 0,
                text: text.to_owned(),
                problem: "is no schedule: it must have five fields (minute, hour, day of month, month, day of week)"
                    .to_owned(),
            }],
        };
        Err(Error::InvalidCrontab(complaints.into_iter().map(|complaint| complaint.at(1, text)).collect()))
    }
}

/// The numbers of each field, as a crontab would have them.
impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (numbers, kind)) in self.fields.iter().zip(KINDS).enumerate() {
            if place > 0 {
                f.write_str(" ")?;
            }
            if numbers.is_everything(kind) {
                f.write_str("*")?;
                continue;
            }
            let listed = (kind.min..=kind.max).filter(|number| numbers.contains(*number));
            for (place, number) in listed.enumerate() {
                write!(f, "{}{number}", if place > 0 { "," } else { "" })?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn schedule(text: &str) -> Schedule {
        text.parse().unwrap_or_else(|error| panic!("{error}"))
    }

    fn time(text: &str) -> DateTime<Utc> {
        text.parse().unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn next_due_times_are_found_across_days_months_and_leap_years() {
        let cases = [
            ("* * * * *", "2026-11-21T10:00:00Z", "2026-11-21T10:01:00Z"),
            ("* * * * *", "2026-11-21T10:00:59.999Z", "2026-11-21T10:01:00Z"),
            ("0 4 * * *", "2026-11-21T04:00:00Z", "2026-11-22T04:00:00Z"),
            ("30 23 31 12 *", "2026-12-31T23:30:00Z", "2027-12-31T23:30:00Z"),
            ("0 0 29 2 *", "2096-03-01T00:00:00Z", "2104-02-29T00:00:00Z"),
            ("0 0 * * 7", "2026-11-21T00:00:00Z", "2026-11-22T00:00:00Z"),
            ("0 0 13 * 5", "2026-11-01T00:00:00Z", "2026-11-06T00:00:00Z"),
            ("0 0 */5 * *", "2026-11-26T00:00:00Z", "2026-12-01T00:00:00Z"),
        ];
        for (text, after, due) in cases {
            assert_eq!(schedule(text).next_after(time(after)), Some(time(due)), "{text} after {after}");
        }
        assert_eq!(schedule("0 0 31 2 *").next_after(time("2026-01-01T00:00:00Z")), None);
        assert_eq!(schedule("* * * * *").next_after(DateTime::<Utc>::MAX_UTC), None);
    }

    proptest! {
        #[test]
        fn the_next_due_time_is_the_first_minute_that_matches(
            minute in 0..60_u32, hour in 0..24_u32, step in 1..30_u32, day in 0..8_u32, from in 0..4_000_000_000_i64,
        ) {
            let schedule = schedule(&format!("{minute},*/{step} {hour} */{step} * {day}"));
            let from = DateTime::from_timestamp(from, 0).expect("a time");
            let due = schedule.next_after(from).expect("it is due");
            prop_assert!(due > from && schedule.matches(due) && due.second() == 0);
            let mut earlier = due - chrono::TimeDelta::minutes(1);
            while earlier > from {
                prop_assert!(!schedule.matches(earlier), "{earlier} comes before {due}");
                earlier -= chrono::TimeDelta::minutes(1);
            }
        }

        #[test]
        fn what_is_shown_is_read_back_as_the_same(
            a in 0..60_u32, b in 0..24_u32, c in 1..32_u32, d in 1..13_u32, e in 0..8_u32, step in 1..40_u32,
        ) {
            let schedule = schedule(&format!("{a},*/{step} {b} {c},*/{step} {d} {e}"));
            prop_assert_eq!(schedule.to_string().parse::<Schedule>().expect("it is read back"), schedule);
        }

        #[test]
        fn no_text_makes_it_panic(text in "[0-9*/, -]{0,40}|.{0,40}") {
            let _ = text.parse::<Schedule>();
        }
    }
}
