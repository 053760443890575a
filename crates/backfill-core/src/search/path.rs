//! Values in payloads.

use std::collections::HashMap;
use std::fmt;

use serde_json::value::RawValue;

use super::pattern::Pattern;

/// A comparison with a value in a payload.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ValueTest {
    /// It is this: a number is compared as a number, whether the payload has it as one or as a string. Of what is no single value (an
    /// object, a list, null) only `*` is true, if it is there and not null.
    Is(Pattern),
    /// It is a number between these, which are in it if they are `inclusive`.
    Number {
        /// The least.
        least: Option<f64>,
        /// The greatest.
        most: Option<f64>,
        /// Whether they themselves are in it.
        inclusive: bool,
    },
}

impl ValueTest {
    /// The same as a person writes it without quotes.
    pub(super) fn of(text: &str) -> Option<Self> {
        let number = |text: &str| number_of(text).map(Some);
        Some(if let Some(rest) = text.strip_prefix(">=") {
            Self::Number { least: number(rest)?, most: None, inclusive: true }
        } else if let Some(rest) = text.strip_prefix("<=") {
            Self::Number { least: None, most: number(rest)?, inclusive: true }
        } else if let Some(rest) = text.strip_prefix('>') {
            Self::Number { least: number(rest)?, most: None, inclusive: false }
        } else if let Some(rest) = text.strip_prefix('<') {
            Self::Number { least: None, most: number(rest)?, inclusive: false }
        } else if let Some((least, most)) = text.split_once("..") {
            Self::Number { least: number(least)?, most: number(most)?, inclusive: true }
        } else {
            Self::Is(Pattern::of(text))
        })
    }

    /// Whether the value at this path of this JSON text is like that. A text that is no JSON has no values.
    #[must_use]
    pub fn holds(&self, json: &str, path: &[String]) -> bool {
        // A payload that cannot have the name in it is not read. (A name may be written with escapes.)
        if let Some(last) = path.last()
            && !json.contains('\\')
            && !json.contains(last.as_str())
            && last.parse::<usize>().is_err()
        {
            return false;
        }
        let Ok(root) = serde_json::from_str::<&RawValue>(json) else { return false };
        let Some(value) = path.iter().try_fold(root, |value, name| member(value, name)) else { return false };
        let raw = value.get().trim();
        let text = match raw.bytes().next() {
            Some(b'"') => match serde_json::from_str::<String>(raw) {
                Ok(text) => text,
                Err(_) => return false,
            },
            Some(b'{' | b'[') => return matches!(self, Self::Is(pattern) if pattern.is_any()),
            Some(b'n') => return false,
            _ => raw.to_owned(),
        };
        match self {
            Self::Is(pattern) => {
                pattern.matches(&text) || pattern.exact().is_some_and(|exact| is_same_number(exact, &text))
            }
            Self::Number { least, most, inclusive } => number_of(&text).is_some_and(|number| {
                least.is_none_or(|least| number > least || (*inclusive && is_same(number, least)))
                    && most.is_none_or(|most| number < most || (*inclusive && is_same(number, most)))
            }),
        }
    }
}

#[expect(clippy::float_cmp, reason = "a bound is in the range or it is not")]
fn is_same(a: f64, b: f64) -> bool {
    a == b
}

/// What is under this name of an object (the last, if it is there more than once), or at this place of a list.
fn member<'a>(value: &'a RawValue, name: &str) -> Option<&'a RawValue> {
    let json = value.get();
    if json.starts_with('{') {
        let members: HashMap<String, &RawValue> = serde_json::from_str(json).ok()?;
        return members.get(name).copied();
    }
    let place: usize = name.parse().ok()?;
    let items: Vec<&RawValue> = serde_json::from_str(json).ok()?;
    items.get(place).copied()
}

/// Beyond these neighbours among the whole numbers look the same as floating point, and are compared as text.
const EXACT: f64 = 9_007_199_254_740_992.0;

fn is_same_number(a: &str, b: &str) -> bool {
    let number = |text| number_of(text).filter(|number| number.abs() < EXACT);
    matches!((number(a), number(b)), (Some(a), Some(b)) if is_same(a, b))
}

/// A number as JSON has them. (Rust would read `inf` as well.)
fn number_of(text: &str) -> Option<f64> {
    let is_number =
        !text.is_empty() && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E'));
    let number: f64 = if is_number { text.parse().ok()? } else { return None };
    number.is_finite().then_some(number)
}

impl fmt::Display for ValueTest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Is(pattern) => pattern.fmt(f),
            Self::Number { least: Some(least), most: Some(most), .. } => write!(f, "{least}..{most}"),
            Self::Number { least: Some(least), inclusive, .. } => write!(f, ">{}{least}", equals(*inclusive)),
            Self::Number { most: Some(most), inclusive, .. } => write!(f, "<{}{most}", equals(*inclusive)),
            Self::Number { .. } => f.write_str("*"),
        }
    }
}

fn equals(inclusive: bool) -> &'static str {
    if inclusive { "=" } else { "" }
}
