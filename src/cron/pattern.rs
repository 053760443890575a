//! The time fields of a crontab line.

use std::fmt;

use chrono::{DateTime, Datelike, Days, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, Timelike, Utc};

use super::Dialect;
use super::field::{KINDS, Kind, Numbers, SECONDS};
use super::problem::Complaint;
use super::zone::Zone;
use crate::nearest::did_you_mean;

/// Five fields, a sixth for seconds, and the zone in which they are read.
///
/// Minute, hour and month must all match. Of day of month and day of week, if both are restricted, either may match; if
/// one is, that one must (the rule of every cron, and Graphile's). A field is restricted when it leaves any of its
/// numbers out, so `1-31` and `*/1` are not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    seconds: Numbers,
    fields: [Numbers; 5],
    pub(super) zone: Zone,
}

/// How far ahead a due day is looked for: the 29th of February comes back within eight years.
const MAX_DAYS: u64 = 366 * 8 + 1;

/// What the extended dialect's short forms stand for.
const MACROS: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

impl Pattern {
    /// Reads fields: five, or in the extended dialect six or a macro. Complaints carry their place within the text that
    /// the fields were cut from.
    pub(super) fn parse(fields: &[(usize, &str)], dialect: Dialect) -> Result<Self, Vec<Complaint>> {
        let extended = dialect == Dialect::Extended;
        match fields {
            [minute, hour, date, month, day] => {
                Self::of_fields((0, "0"), [*minute, *hour, *date, *month, *day], dialect)
            }
            [second, minute, hour, date, month, day] if extended => {
                Self::of_fields(*second, [*minute, *hour, *date, *month, *day], dialect)
            }
            [(offset, name)] if extended => {
                let Some((_, meaning)) = MACROS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)) else {
                    let known: Vec<&str> = MACROS.iter().map(|(known, _)| *known).collect();
                    let meant = did_you_mean(name, known.iter().copied());
                    let problem = format!("is no time: five or six fields are, or one of {}{meant}", known.join(", "));
                    return Err(vec![Complaint::new(*offset, name, problem)]);
                };
                let fields: Vec<(usize, &str)> = super::crontab::words(meaning).collect();
                Self::parse(&fields, Dialect::Graphile)
            }
            _ => {
                let offset = fields.first().map_or(0, |(offset, _)| *offset);
                let text = fields.iter().map(|(_, text)| *text).collect::<Vec<_>>().join(" ");
                let problem = match dialect {
                    Dialect::Graphile => "is no time: five fields are needed (minute, hour, date, month, day of week)",
                    Dialect::Extended => {
                        "is no time: five fields are needed (minute, hour, date, month, day of week), six (with seconds \
                         before them), or a name like @daily"
                    }
                };
                Err(vec![Complaint::new(offset, &text, problem)])
            }
        }
    }

    fn of_fields(seconds: (usize, &str), fields: [(usize, &str); 5], dialect: Dialect) -> Result<Self, Vec<Complaint>> {
        let mut complaints = Vec::new();
        let mut read = |(start, text): (usize, &str), kind: Kind| {
            Numbers::parse(text, kind, dialect)
                .map_err(|mut more| {
                    for complaint in &mut more {
                        complaint.offset += start;
                    }
                    complaints.append(&mut more);
                })
                .ok()
        };
        let seconds = read(seconds, SECONDS);
        let mut numbers = [None; 5];
        for ((field, kind), slot) in fields.into_iter().zip(KINDS).zip(&mut numbers) {
            *slot = read(field, kind);
        }
        match (seconds, numbers) {
            (Some(seconds), [Some(minutes), Some(hours), Some(dates), Some(months), Some(days)]) => {
                Ok(Self { seconds, fields: [minutes, hours, dates, months, days], zone: Zone::Utc })
            }
            _ => Err(complaints),
        }
    }

    /// Whether it is due only at whole minutes.
    fn is_by_the_minute(&self) -> bool {
        self.seconds == Numbers::just(0)
    }

    /// Whether it is due in the minute of this time (in its second, if it tells seconds).
    pub(super) fn matches(&self, time: DateTime<Utc>) -> bool {
        let seconds = if self.is_by_the_minute() { i64::from(time.second()) } else { 0 };
        let begun = TimeDelta::seconds(seconds) + TimeDelta::nanoseconds(i64::from(time.nanosecond()));
        let Some(whole) = time.checked_sub_signed(begun) else { return false };
        if self.zone != Zone::Utc {
            let before = whole.checked_sub_signed(TimeDelta::nanoseconds(1));
            return before.is_some_and(|before| self.next_after(before) == Some(whole));
        }
        let [minutes, hours, ..] = self.fields;
        self.seconds.contains(whole.second())
            && minutes.contains(whole.minute())
            && hours.contains(whole.hour())
            && self.matches_day(whole.date_naive())
    }

    /// The first due moment after this time, or `None` if there is none (such as the 31st of February).
    pub(super) fn next_after(&self, time: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let [_, hours, ..] = self.fields;
        self.zone.next_after(time, hours.is_everything(KINDS[1]), |local| self.next_local(local))
    }

    /// The first local time after this one that the fields name.
    fn next_local(&self, after: NaiveDateTime) -> Option<NaiveDateTime> {
        let [minutes, hours, ..] = self.fields;
        let from = after.checked_add_signed(TimeDelta::nanoseconds(1_000_000_000 - i64::from(after.nanosecond())))?;
        let days = (0..MAX_DAYS).filter_map(|days| from.date().checked_add_days(Days::new(days)));
        for day in days.filter(|day| self.matches_day(*day)) {
            // Only the first day's times may be over.
            let earliest = if day == from.date() { from.time() } else { NaiveTime::MIN };
            for hour in (earliest.hour()..24).filter(|hour| hours.contains(*hour)) {
                let first_minute = if hour == earliest.hour() { earliest.minute() } else { 0 };
                for minute in (first_minute..60).filter(|minute| minutes.contains(*minute)) {
                    let same = (hour, minute) == (earliest.hour(), earliest.minute());
                    let first_second = if same { earliest.second() } else { 0 };
                    if let Some(second) = (first_second..60).find(|second| self.seconds.contains(*second)) {
                        return day.and_hms_opt(hour, minute, second);
                    }
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

/// The numbers of each field, as a crontab would have them.
impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.is_by_the_minute() {
            write_numbers(f, self.seconds, SECONDS)?;
            f.write_str(" ")?;
        }
        for (place, (numbers, kind)) in self.fields.iter().zip(KINDS).enumerate() {
            if place > 0 {
                f.write_str(" ")?;
            }
            write_numbers(f, *numbers, kind)?;
        }
        Ok(())
    }
}

fn write_numbers(f: &mut fmt::Formatter<'_>, numbers: Numbers, kind: Kind) -> fmt::Result {
    if numbers.is_everything(kind) {
        return f.write_str("*");
    }
    let listed = (kind.min..=kind.max).filter(|number| numbers.contains(*number));
    for (place, number) in listed.enumerate() {
        write!(f, "{}{number}", if place > 0 { "," } else { "" })?;
    }
    Ok(())
}
