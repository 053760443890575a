//! One field of a cron expression: a set of small numbers.

use super::crontab::Complaint;

/// What a field is called, and what it may hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    pub name: &'static str,
    pub min: u32,
    pub max: u32,
    /// Whether `max + 1` stands for `min`: 7 is Sunday, as 0 is.
    pub wraps: bool,
}

pub(super) const KINDS: [Kind; 5] = [
    Kind { name: "minutes", min: 0, max: 59, wraps: false },
    Kind { name: "hours", min: 0, max: 23, wraps: false },
    Kind { name: "dates", min: 1, max: 31, wraps: false },
    Kind { name: "months", min: 1, max: 12, wraps: false },
    Kind { name: "days of week", min: 0, max: 6, wraps: true },
];

/// The numbers of a field, as bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Numbers(u64);

impl Numbers {
    pub(super) fn contains(self, number: u32) -> bool {
        self.0 >> number & 1 == 1
    }

    /// Whether every number that the field may hold is in it.
    pub(super) fn is_everything(self, kind: Kind) -> bool {
        self.0.count_ones() == kind.max - kind.min + 1
    }

    /// Reads a comma list of numbers, ranges `a-b`, `*` and `*/n`.
    ///
    /// The complaints carry their place within the field's text, in bytes.
    pub(super) fn parse(text: &str, kind: Kind) -> Result<Self, Vec<Complaint>> {
        let mut numbers = 0;
        let mut complaints = Vec::new();
        let mut offset = 0;
        for part in text.split(',') {
            match part_numbers(part, kind) {
                Ok(more) => numbers |= more,
                Err(problem) => complaints.push(Complaint { offset, text: part.to_owned(), problem }),
            }
            offset += part.len() + 1;
        }
        if complaints.is_empty() { Ok(Self(numbers)) } else { Err(complaints) }
    }
}

fn part_numbers(part: &str, kind: Kind) -> Result<u64, String> {
    let Kind { name, min, max, .. } = kind;
    if let Some(number) = number(part) {
        return bit(number, kind);
    }
    if let Some((from, to)) = part.split_once('-')
        && let (Some(from), Some(to)) = (number(from), number(to))
    {
        if to <= from {
            return Err(format!("is no range of {name}: its end must be larger than its start"));
        }
        // Both ends first, so that a huge range is refused before it is walked.
        bit(from, kind)?;
        bit(to, kind)?;
        return (from..=to).try_fold(0, |all, number| Ok(all | bit(number, kind)?));
    }
    if part == "*" {
        return (min..=max).try_fold(0, |all, number| Ok(all | bit(number, kind)?));
    }
    if let Some(step) = part.strip_prefix("*/").and_then(number) {
        if step == 0 {
            return Err(format!("is no step for {name}: it must be greater than zero"));
        }
        let step = usize::try_from(step).unwrap_or(usize::MAX);
        return (min..=max).step_by(step).try_fold(0, |all, number| Ok(all | bit(number, kind)?));
    }
    Err(format!("is neither a number, nor a range like {min}-{max}, nor * or */n, which {name} may be"))
}

/// Digits only; a number too large for the type is larger than any limit in any case.
fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u32::MAX))
}

fn bit(number: u32, kind: Kind) -> Result<u64, String> {
    let Kind { name, min, max, wraps } = kind;
    let wrapped = if wraps && number == max + 1 { min } else { number };
    if wrapped > max {
        Err(format!("is too large: {name} go from {min} to {max}"))
    } else if wrapped < min {
        Err(format!("is too small: {name} go from {min} to {max}"))
    } else {
        Ok(1 << wrapped)
    }
}
