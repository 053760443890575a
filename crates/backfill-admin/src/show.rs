//! How numbers, times and foreign text look on a page.

use backfill::JobState;
use backfill::storage::{Number, Precision};
use backfill::text::visible;

/// A number in groups of three, and a mark unless it is exact.
pub(crate) fn number(number: Number) -> String {
    match number.precision {
        Precision::Exact => grouped(number.value),
        Precision::AtLeast => format!("{}+", grouped(number.value)),
        Precision::Estimated => format!("≈\u{a0}{}", grouped(number.value)),
        _ => "?".to_owned(),
    }
}

/// A number of jobs.
pub(crate) fn jobs(count: u64) -> String {
    format!("{} {}", grouped(count), if count == 1 { "job" } else { "jobs" })
}

pub(crate) fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() * 2);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// A text in one line, of at most so many characters.
pub(crate) fn line(text: &str, most: usize) -> String {
    let first = text.lines().next().unwrap_or_default();
    let shown: String = first.chars().take(most).collect();
    let more = if shown.len() < text.trim_end().len() { "…" } else { "" };
    visible(&shown) + more
}

/// How a state looks beside its word: never by colour alone.
pub(crate) fn icon(state: JobState) -> &'static str {
    match state {
        JobState::Ready => "○",
        JobState::Scheduled => "◷",
        JobState::Running => "▶",
        JobState::Retrying => "↻",
        _ => "✕",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_says_how_well_it_is_known() {
        assert_eq!(number(Number::exact(1_234_567)), "1\u{202f}234\u{202f}567");
        assert_eq!(number(Number::at_least(10_000)), "10\u{202f}000+");
        assert_eq!(number(Number::estimated(7)), "≈\u{a0}7");
        assert_eq!((number(Number::unknown()), grouped(999)), ("?".to_owned(), "999".to_owned()));
    }

    #[test]
    fn a_line_is_cut_and_harmless() {
        assert_eq!(line("a\nb", 9), "a…");
        assert_eq!(line("abcdef", 3), "abc…");
        assert_eq!(line("a\u{202e}b\n", 9), "a\\u{202e}b");
    }
}
