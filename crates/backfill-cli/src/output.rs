//! What is printed, for people and for machines.

use std::io::{Write, stdout};

use chrono::{DateTime, SecondsFormat, Utc};
use clap::ColorChoice;
use serde::Serialize;
use unicode_width::UnicodeWidthStr;

use crate::failure::Failure;
use crate::screen::Screen;

/// Standard output. Whatever cannot be written ends the program: quietly, if the pipe was closed.
pub struct Output {
    json: bool,
    color: ColorChoice,
}

#[expect(clippy::unused_self, reason = "standard output is one, and this is the only way to it")]
impl Output {
    pub fn new(json: bool, color: ColorChoice) -> Self {
        Self { json, color }
    }

    /// Whether machines read it.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// What it is now: a terminal may change its size.
    pub fn screen(&self) -> Screen {
        Screen::out(self.color)
    }

    /// Prints one JSON document and a line's end.
    pub fn json<T: Serialize + ?Sized>(&self, value: &T) -> Result<(), Failure> {
        let mut out = stdout().lock();
        serde_json::to_writer(&mut out, value)?;
        out.write_all(b"\n")?;
        Ok(out.flush()?)
    }

    /// Begins a JSON document that is a list, of which not all is held at once.
    pub fn json_list(&self) -> Result<JsonList, Failure> {
        stdout().lock().write_all(b"[")?;
        Ok(JsonList { items: 0 })
    }

    /// Prints text and a line's end.
    pub fn line(&self, text: impl AsRef<str>) -> Result<(), Failure> {
        let mut out = stdout().lock();
        out.write_all(text.as_ref().as_bytes())?;
        out.write_all(b"\n")?;
        Ok(out.flush()?)
    }

    /// Prints the one or the other.
    pub fn either<T: Serialize + ?Sized>(&self, value: &T, text: impl AsRef<str>) -> Result<(), Failure> {
        if self.json { self.json(value) } else { self.line(text) }
    }
}

/// A JSON list that is being printed.
pub struct JsonList {
    items: u64,
}

impl JsonList {
    /// Prints one more.
    pub fn item<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Failure> {
        let mut out = stdout().lock();
        if self.items > 0 {
            out.write_all(b",")?;
        }
        self.items += 1;
        Ok(serde_json::to_writer(&mut out, value)?)
    }

    /// Ends the list and the line.
    #[expect(clippy::unused_self, reason = "nothing comes after the end")]
    pub fn end(self) -> Result<(), Failure> {
        let mut out = stdout().lock();
        out.write_all(b"]\n")?;
        Ok(out.flush()?)
    }
}

/// All of a text in one line, made harmless for a terminal. Its line breaks show.
pub fn one_line(text: &str) -> String {
    text.trim_end().lines().map(visible).collect::<Vec<_>>().join("\\n")
}

/// The text with line breaks between words where a terminal would break it anywhere, and this many blanks after each. Its first line begins
/// after as many columns.
pub fn wrapped(text: &str, width: Option<usize>, indent: usize) -> String {
    let gap = " ".repeat(indent);
    let room = match width {
        Some(width) if width >= indent + 20 => width - indent,
        // No terminal, or one too narrow for this.
        _ => return text.replace('\n', &format!("\n{gap}")),
    };
    let mut lines = Vec::new();
    for line in text.split('\n') {
        let mut begun = String::new();
        for word in line.split(' ') {
            if !begun.is_empty() && begun.width() + 1 + word.width() > room {
                lines.push(std::mem::take(&mut begun));
            } else if !begun.is_empty() {
                begun.push(' ');
            }
            begun += word;
        }
        lines.push(begun);
    }
    lines.join(&format!("\n{gap}"))
}

pub use backfill::text::visible;

pub fn rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

/// A time to the second.
pub fn seconds(time: DateTime<Utc>) -> String {
    time.format("%Y-%m-%d %H:%M:%S").to_string()
}

/// A number of things: `1 job`, `2 jobs`.
pub fn count_of(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_made_harmless() {
        assert_eq!(one_line("fine"), "fine");
        assert_eq!(one_line("two\nlines\n"), "two\\nlines");
        assert_eq!(visible("a\x1b[2Jb\u{7}"), "a\\u{1b}[2Jb\\u{7}");
        assert_eq!(visible("a\u{9b}2J\u{202e}b\r"), "a\\u{9b}2J\\u{202e}b\\r");
    }

    #[test]
    fn lines_are_broken_between_words_on_a_terminal_only() {
        let text = "one two three four five six\nseven";
        assert_eq!(wrapped(text, None, 2), "one two three four five six\n  seven");
        assert_eq!(wrapped(text, Some(22), 2), "one two three four\n  five six\n  seven");
        assert_eq!(wrapped("averyveryverylongwordindeed so", Some(22), 2), "averyveryverylongwordindeed\n  so");
    }
}
