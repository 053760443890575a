//! What is printed, for people and for machines.

use std::io::{IsTerminal, Write, stdout};

use chrono::{DateTime, SecondsFormat, Utc};
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::failure::Failure;

/// Standard output. Whatever cannot be written ends the program: quietly, if the pipe was closed.
pub struct Output {
    json: bool,
}

#[expect(clippy::unused_self, reason = "standard output is one, and this is the only way to it")]
impl Output {
    pub fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether machines read it.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Whether a person looks at it.
    pub fn is_terminal(&self) -> bool {
        stdout().is_terminal()
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

/// A table in which these columns are numbers.
pub fn table(header: &[&str], numbers: &[usize]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    for number in numbers {
        if let Some(column) = table.column_mut(*number) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// A table's text, without blanks at the ends of lines.
pub fn text(table: &Table) -> String {
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// The beginning of a text's first line, made harmless for a terminal.
pub fn short(text: &str, max: usize) -> String {
    let first = text.lines().next().unwrap_or_default();
    let line = visible(first);
    if line.chars().count() <= max && first.len() >= text.trim_end().len() {
        return line;
    }
    line.chars().take(max.saturating_sub(1)).chain(['…']).collect()
}

/// The text with control characters shown rather than obeyed: whoever adds jobs must not move an administrator's cursor.
pub fn visible(text: &str) -> String {
    text.chars()
        .flat_map(|char| {
            let shown: Vec<char> =
                if char.is_control() && char != '\n' { char.escape_default().collect() } else { vec![char] };
            shown
        })
        .collect()
}

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
    fn texts_are_shortened_and_made_harmless() {
        assert_eq!(short("fine", 10), "fine");
        assert_eq!(short("two\nlines", 10), "two…");
        assert_eq!(short("much too long", 6), "much …");
        assert_eq!(visible("a\x1b[2Jb\u{7}"), "a\\u{1b}[2Jb\\u{7}");
    }
}
