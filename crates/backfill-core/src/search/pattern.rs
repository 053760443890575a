//! Names, and texts with `*` in them.

use std::fmt;

/// A text that a name is compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Pattern {
    /// This text.
    Exact(String),
    /// A text in which each `*` stands for any text, also none.
    Like(String),
}

impl Pattern {
    /// What a person wrote without quotes: `*` stands for any text.
    #[must_use]
    pub fn of(text: impl Into<String>) -> Self {
        let text = text.into();
        if text.contains('*') { Self::Like(text) } else { Self::Exact(text) }
    }

    /// The text, if there is only one that it matches.
    #[must_use]
    pub fn exact(&self) -> Option<&str> {
        match self {
            Self::Exact(text) => Some(text),
            Self::Like(_) => None,
        }
    }

    /// Whether any text will do.
    #[must_use]
    pub fn is_any(&self) -> bool {
        matches!(self, Self::Like(pattern) if pattern.bytes().all(|byte| byte == b'*'))
    }

    /// Whether this text matches.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == text,
            Self::Like(pattern) => like(pattern, text),
        }
    }

    /// The same as a pattern of SQL's `like`, whose escape is a backslash.
    #[must_use]
    pub fn to_like(&self) -> String {
        let (text, is_pattern) = match self {
            Self::Exact(text) => (text, false),
            Self::Like(text) => (text, true),
        };
        let mut like = String::with_capacity(text.len() + 2);
        for char in text.chars() {
            match char {
                '*' if is_pattern => like.push('%'),
                '%' | '_' | '\\' => like.extend(['\\', char]),
                other => like.push(other),
            }
        }
        like
    }
}

/// Greedy from the left: the text between two stars is looked for where it comes first, which leaves the most for the rest.
fn like(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// In quotes, unless it needs none.
pub(super) fn write_quoted(f: &mut fmt::Formatter<'_>, text: &str, quoted: impl Fn(char) -> bool) -> fmt::Result {
    let is_plain = !text.is_empty()
        && !text.starts_with(['-', '<', '>'])
        && !text.contains("..")
        && !text.chars().any(|char| char.is_whitespace() || matches!(char, '"' | ':' | ',' | '\\') || quoted(char));
    if is_plain {
        return f.write_str(text);
    }
    f.write_str("\"")?;
    for char in text.chars() {
        if matches!(char, '"' | '\\') {
            f.write_str("\\")?;
        }
        write!(f, "{char}")?;
    }
    f.write_str("\"")
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(text) => write_quoted(f, text, |char| char == '*'),
            // Quoted pieces between the stars, since a quoted star is none.
            Self::Like(text) => {
                for (place, piece) in text.split('*').enumerate() {
                    if place > 0 {
                        f.write_str("*")?;
                    }
                    if !piece.is_empty() {
                        write_quoted(f, piece, |_| false)?;
                    }
                }
                Ok(())
            }
        }
    }
}
