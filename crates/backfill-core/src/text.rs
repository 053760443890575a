//! How foreign text, JSON, times and lengths of time are shown to people, on a terminal as on a page.

use std::time::Duration;

use chrono::{DateTime, Utc};

/// The text with control characters shown rather than obeyed, and what turns the direction of writing: whoever adds jobs must not move an
/// administrator's cursor.
#[must_use]
pub fn visible(text: &str) -> String {
    let obeyed = |char: char| {
        char.is_control() && char != '\n'
            || matches!(char, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let mut shown = String::with_capacity(text.len());
    for char in text.chars() {
        if obeyed(char) { shown.extend(char.escape_default()) } else { shown.push(char) }
    }
    shown
}

/// JSON text with line breaks and indentation, everything else as it is.
#[must_use]
pub fn laid_out(json: &str) -> String {
    let mut out = String::with_capacity(json.len() * 2);
    let mut depth = 0_usize;
    let mut in_string = false;
    let mut chars = json.chars().peekable();
    let new_line = |out: &mut String, depth: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n("  ", depth.min(100)));
    };
    while let Some(char) = chars.next() {
        if in_string {
            out.push(char);
            match char {
                '\\' => out.extend(chars.next()),
                '"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match char {
            '"' => {
                in_string = true;
                out.push(char);
            }
            '{' | '[' => {
                out.push(char);
                while chars.next_if(|next| next.is_whitespace()).is_some() {}
                if let Some(end) = chars.next_if(|next| matches!(next, '}' | ']')) {
                    out.push(end);
                } else {
                    depth += 1;
                    new_line(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                new_line(&mut out, depth);
                out.push(char);
            }
            ',' => {
                out.push(char);
                new_line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            char if char.is_whitespace() => {}
            char => out.push(char),
        }
    }
    out
}

/// How long ago a time was, or how long it is until then: `3m ago`, `in 2h`.
#[must_use]
pub fn relative(time: DateTime<Utc>, now: DateTime<Utc>) -> String {
    let seconds = (now - time).num_seconds();
    match seconds {
        0 => "now".to_owned(),
        1.. => format!("{} ago", length(Duration::from_secs(seconds.unsigned_abs()))),
        _ => format!("in {}", length(Duration::from_secs(seconds.unsigned_abs()))),
    }
}

/// A duration by its two largest units.
#[must_use]
pub fn length(duration: Duration) -> String {
    let text = humantime::format_duration(duration).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_laid_out_without_changing_a_value() {
        let json = r#"{"b":[1.0,12345678901234567890],"a":"x{,}\"y","e":{},"f":[ ]}"#;
        let expected = "{\n  \"b\": [\n    1.0,\n    12345678901234567890\n  ],\n  \"a\": \"x{,}\\\"y\",\n  \"e\": {},\n  \"f\": []\n}";
        assert_eq!(laid_out(json), expected);
        assert_eq!(laid_out("3"), "3");
    }

    #[test]
    fn times_are_told_as_people_do() {
        let now = Utc::now();
        assert_eq!(relative(now, now), "now");
        assert_eq!(relative(now - chrono::TimeDelta::seconds(90), now), "1m 30s ago");
        assert_eq!(relative(now + chrono::TimeDelta::seconds(7260), now), "in 2h 1m");
    }
}
