//! One field of a cron expression: a set of small numbers.

use super::Dialect;
use super::problem::Complaint;
use crate::nearest::did_you_mean;

/// What a field is called, and what it may hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    pub name: &'static str,
    pub min: u32,
    pub max: u32,
    /// Whether `max + 1` stands for `min`: 7 is Sunday, as 0 is.
    pub wraps: bool,
    /// What the numbers from `min` on are called in the extended dialect.
    pub names: &'static [&'static str],
}

const MONTHS: &[&str] = &["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
const DAYS: &[&str] = &["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];

/// The extended dialect's optional first field.
pub(super) const SECONDS: Kind = Kind { name: "seconds", min: 0, max: 59, wraps: false, names: &[] };
pub(super) const KINDS: [Kind; 5] = [
    Kind { name: "minutes", min: 0, max: 59, wraps: false, names: &[] },
    Kind { name: "hours", min: 0, max: 23, wraps: false, names: &[] },
    Kind { name: "dates", min: 1, max: 31, wraps: false, names: &[] },
    Kind { name: "months", min: 1, max: 12, wraps: false, names: MONTHS },
    Kind { name: "days of week", min: 0, max: 6, wraps: true, names: DAYS },
];

/// The numbers of a field, as bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Numbers(u64);

impl Numbers {
    /// One number, which the field must be able to hold.
    pub(super) const fn just(number: u32) -> Self {
        Self(1 << number)
    }

    pub(super) fn contains(self, number: u32) -> bool {
        self.0 >> number & 1 == 1
    }

    /// Whether every number that the field may hold is in it.
    pub(super) fn is_everything(self, kind: Kind) -> bool {
        self.0.count_ones() == kind.max - kind.min + 1
    }

    /// Reads a comma list of numbers, ranges `a-b`, `*` and `*/n`; in the extended dialect also names, `a-b/n` and `a/n`.
    ///
    /// The complaints carry their place within the field's text, in bytes.
    pub(super) fn parse(text: &str, kind: Kind, dialect: Dialect) -> Result<Self, Vec<Complaint>> {
        let mut numbers = 0;
        let mut complaints = Vec::new();
        let mut offset = 0;
        for part in text.split(',') {
            match part_numbers(part, kind, dialect) {
                Ok(more) => numbers |= more,
                Err(problem) => complaints.push(Complaint::new(offset, part, problem)),
            }
            offset += part.len() + 1;
        }
        if complaints.is_empty() { Ok(Self(numbers)) } else { Err(complaints) }
    }
}

fn part_numbers(part: &str, kind: Kind, dialect: Dialect) -> Result<u64, String> {
    let Kind { name, min, max, .. } = kind;
    if let Some(number) = value(part, kind, dialect) {
        return bit(number, kind);
    }
    let (range, step) = match part.split_once('/') {
        Some((range, step)) => (range, Some(step)),
        None => (part, None),
    };
    let step_size = match step.map(number) {
        None => 1,
        Some(Some(0)) => return Err(format!("is no step for {name}: it must be greater than zero")),
        Some(Some(step)) => usize::try_from(step).unwrap_or(usize::MAX),
        Some(None) => return Err(not_understood(part, kind, dialect)),
    };
    let every = |from: u32, to: u32| (from..=to).step_by(step_size).try_fold(0, |all, n| Ok(all | bit(n, kind)?));
    if range == "*" {
        return every(min, max);
    }
    // Graphile knows steps of `*` only.
    if step.is_none() || dialect == Dialect::Extended {
        if let Some((from, to)) = range.split_once('-')
            && let (Some(from), Some(to)) = (value(from, kind, dialect), value(to, kind, dialect))
        {
            if to <= from {
                return Err(format!("is no range of {name}: its end must be larger than its start"));
            }
            // Both ends first, so that a huge range is refused before it is walked.
            bit(from, kind)?;
            bit(to, kind)?;
            return every(from, to);
        }
        if let Some(from) = value(range, kind, dialect) {
            bit(from, kind)?;
            return every(from, max);
        }
    }
    Err(not_understood(part, kind, dialect))
}

fn not_understood(part: &str, kind: Kind, dialect: Dialect) -> String {
    let Kind { name, min, max, names, .. } = kind;
    match dialect {
        Dialect::Graphile => {
            format!("is neither a number, nor a range like {min}-{max}, nor * or */n, which {name} may be")
        }
        Dialect::Extended => {
            let named = match (names.first(), names.last()) {
                (Some(first), Some(last)) => format!("a number or a name from {first} to {last}"),
                _ => "a number".to_owned(),
            };
            // Of a range, one end may be a name that nobody knows.
            let words = part.split(['-', '/']).filter(|word| value(word, kind, dialect).is_none());
            let meant = words.map(|word| did_you_mean(word, names.iter().copied())).find(|meant| !meant.is_empty());
            let meant = meant.unwrap_or_default();
            format!(
                "is neither {named}, nor a range like {min}-{max}, nor *, nor one of these with a step like */n{meant}"
            )
        }
    }
}

/// A number, or in the extended dialect a name that stands for one.
fn value(text: &str, kind: Kind, dialect: Dialect) -> Option<u32> {
    number(text).or_else(|| {
        let place = kind.names.iter().position(|name| name.eq_ignore_ascii_case(text))?;
        (dialect == Dialect::Extended).then(|| kind.min + u32::try_from(place).unwrap_or_default())
    })
}

/// Digits only; a number too large for the type is larger than any limit in any case.
fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u32::MAX))
}

fn bit(number: u32, kind: Kind) -> Result<u64, String> {
    let Kind { name, min, max, wraps, .. } = kind;
    let wrapped = if wraps && number == max + 1 { min } else { number };
    if wrapped > max {
        Err(format!("is too large: {name} go from {min} to {max}"))
    } else if wrapped < min {
        Err(format!("is too small: {name} go from {min} to {max}"))
    } else {
        Ok(1 << wrapped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(text: &str, kind: Kind, dialect: Dialect) -> Result<Vec<u32>, String> {
        Numbers::parse(text, kind, dialect)
            .map(|numbers| (kind.min..=kind.max).filter(|number| numbers.contains(*number)).collect())
            .map_err(|complaints| complaints[0].problem.clone())
    }

    #[test]
    fn the_extended_dialect_knows_names_and_steps_of_ranges() {
        let [minutes, _, dates, months, days] = KINDS;
        let extended = |text, kind| numbers(text, kind, Dialect::Extended);
        assert_eq!(extended("MON-fri", days), Ok(vec![1, 2, 3, 4, 5]));
        assert_eq!(extended("sun,6", days), Ok(vec![0, 6]));
        assert_eq!(extended("5-7/2", days), Ok(vec![0, 5]));
        assert_eq!(extended("Jan-JUN/2,dec", months), Ok(vec![1, 3, 5, 12]));
        assert_eq!(extended("10-30/10", minutes), Ok(vec![10, 20, 30]));
        assert_eq!(extended("25/3", dates), Ok(vec![25, 28, 31]));
        assert!(extended("MON", months).unwrap_err().contains("JAN to DEC"));
        assert!(extended("MNO-FRI", days).unwrap_err().ends_with("; did you mean \"MON\"?"));
        assert!(extended("5-1/2", minutes).unwrap_err().contains("larger than its start"));
        assert!(extended("60/2", minutes).unwrap_err().contains("too large"));
        assert!(extended("1/0", minutes).unwrap_err().contains("greater than zero"));
    }

    #[test]
    fn graphiles_dialect_knows_neither() {
        for (text, kind) in [("MON", KINDS[4]), ("1-5/2", KINDS[0]), ("5/2", KINDS[0]), ("JAN-MAR", KINDS[3])] {
            assert!(numbers(text, kind, Dialect::Graphile).is_err(), "{text}");
        }
    }
}
