//! From text to a query.
//!
//! A term is read as a list of pieces, each quoted or not: what stands in quotes never has a special meaning.

use super::path::ValueTest;
use super::pattern::Pattern;
use super::query::{MAX_BYTES, MAX_TERMS, Query, Term, Test};
use super::range::{Range, TimeRange};
use crate::error::{Error, Result};
use crate::job::JobState;
use crate::nearest::did_you_mean;

const FIELDS: [&str; 13] = [
    "state", "task", "queue", "key", "worker", "error", "flag", "id", "priority", "attempts", "created", "due",
    "payload",
];

/// A character, and whether it stood in quotes.
type Char = (char, bool);

pub(super) fn query(text: &str) -> Result<Query> {
    if text.len() > MAX_BYTES {
        return refuse(text, &format!("has {} bytes; a search may have {MAX_BYTES}", text.len()));
    }
    let mut terms = Vec::new();
    for word in words(text)? {
        if terms.len() == MAX_TERMS {
            return refuse(text, &format!("has too many terms; a search may have {MAX_TERMS}"));
        }
        terms.push(term(&word)?);
    }
    Ok(Query { terms })
}

/// The words between the blanks, without their quotes.
fn words(text: &str) -> Result<Vec<Vec<Char>>> {
    let mut words = Vec::new();
    // A word may be a pair of quotes with nothing in it.
    let mut word: Option<Vec<Char>> = None;
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        match char {
            '"' => {
                let word = word.get_or_insert_default();
                // An empty text in quotes is told from nothing by a mark that no text has.
                let before = word.len();
                loop {
                    match chars.next() {
                        Some('"') => break,
                        Some('\\') => match chars.next() {
                            Some(escaped @ ('"' | '\\')) => word.push((escaped, true)),
                            _ => {
                                return refuse(
                                    text,
                                    r#"has a \ in quotes that is followed by neither " nor \; write \\"#,
                                );
                            }
                        },
                        Some(char) => word.push((char, true)),
                        None => return refuse(text, "has quotes that are not closed"),
                    }
                }
                if word.len() == before {
                    word.push(EMPTY);
                }
            }
            char if char.is_whitespace() => words.extend(word.take()),
            char => word.get_or_insert_default().push((char, false)),
        }
    }
    words.extend(word);
    Ok(words)
}

/// Quotes with nothing in them.
const EMPTY: Char = ('\0', true);

fn text_of(chars: &[Char]) -> String {
    chars.iter().filter(|char| **char != EMPTY).map(|(char, _)| char).collect()
}

fn is_quoted(chars: &[Char]) -> bool {
    chars.iter().any(|(_, quoted)| *quoted)
}

fn find(chars: &[Char], wanted: char) -> Option<usize> {
    chars.iter().position(|char| *char == (wanted, false))
}

/// A `*` in quotes is a star. Beside one that is not, there is no way to write it.
fn pattern(chars: &[Char]) -> Result<Pattern> {
    let text = text_of(chars);
    if find(chars, '*').is_none() {
        return Ok(Pattern::Exact(text));
    }
    if chars.contains(&('*', true)) {
        return refuse(&text, "has a * in quotes beside one that stands for any text, which cannot be told apart");
    }
    Ok(Pattern::Like(text))
}

fn term(word: &[Char]) -> Result<Term> {
    let (negated, word) = match word {
        [('-', false), rest @ ..] if !rest.is_empty() => (true, rest),
        word => (false, word),
    };
    let test = match find(word, ':') {
        Some(colon) => field(&word[..colon], &word[colon + 1..])?,
        None if !is_quoted(word) && text_of(word).parse::<i64>().is_ok() => {
            Test::Id(Range::only(text_of(word).parse().unwrap_or_default()))
        }
        None => Test::Name(pattern(word)?),
    };
    Ok(Term { negated, test })
}

fn field(name: &[Char], value: &[Char]) -> Result<Test> {
    let whole = || format!("{}:{}", text_of(name), text_of(value));
    if value.is_empty() {
        return refuse(&whole(), "has nothing behind the colon; text with blanks goes in quotes");
    }
    let path: Vec<&[Char]> = name.split(|char| *char == ('.', false)).collect();
    let field = text_of(path[0]);
    let plain = (!is_quoted(value)).then(|| text_of(value));
    let range = || {
        let range = plain.as_deref().and_then(Range::of);
        range.map_or_else(|| refuse(&whole(), "must be a number such as 7, >7, >=7, <7, <=7 or 7..9"), Ok)
    };
    let times = |is_past| {
        // A time has colons, so people quote it.
        let range = TimeRange::of(&text_of(value), is_past);
        let problem = "must be > or < and a length of time (90s, 10m, 2h, 7d, 1h30m) or a time (2026-11-30, 2026-11-30T12:00:00Z)";
        range.map_or_else(|| refuse(&whole(), problem), Ok)
    };
    if path.len() > 1 && field != "payload" {
        return refuse(&whole(), "has dots before the colon, which only payload.… may have");
    }
    Ok(match field.as_str() {
        "state" => Test::State(states(value, &whole())?),
        "task" => Test::Task(value.split(|char| *char == (',', false)).map(pattern).collect::<Result<_>>()?),
        "queue" => Test::Queue(pattern(value)?),
        "key" => Test::Key(pattern(value)?),
        "worker" => Test::Worker(pattern(value)?),
        "error" => Test::Error(text_of(value)),
        "flag" => Test::Flag(text_of(value)),
        "id" => Test::Id(range()?),
        "priority" => Test::Priority(range()?),
        "attempts" => Test::Attempts(range()?),
        "created" => Test::Created(times(true)?),
        "due" => Test::Due(times(false)?),
        "payload" => {
            let path: Vec<String> = path[1..].iter().map(|name| text_of(name)).collect();
            let test = match &plain {
                Some(text) => ValueTest::of(text).map_or_else(
                    || refuse(&whole(), "must compare with a number, such as >100 or 1..9; other text goes in quotes"),
                    Ok,
                )?,
                None => ValueTest::Is(pattern(value)?),
            };
            Test::Payload { path, test }
        }
        other => {
            let meant = did_you_mean(other, FIELDS);
            let fields = FIELDS.join(", ");
            let problem = format!(
                "names no field{meant} There are {fields}. A name with a colon in it goes in quotes: {:?}",
                whole()
            );
            let problem = if meant.is_empty() { problem.replacen("no field ", "no field. ", 1) } else { problem };
            return refuse(&whole(), &problem);
        }
    })
}

fn states(value: &[Char], whole: &str) -> Result<Vec<JobState>> {
    let names = text_of(value);
    let state = |name: &str| {
        let known = JobState::ALL.map(JobState::as_str);
        let state: Option<JobState> = name.parse().ok();
        state.map_or_else(
            || {
                refuse(
                    whole,
                    &format!("has the state {name:?}{}; it must be {}", did_you_mean(name, known), known.join(", ")),
                )
            },
            Ok,
        )
    };
    names.split(',').map(state).collect()
}

fn refuse<T>(term: &str, problem: &str) -> Result<T> {
    Err(Error::invalid_search(term, problem))
}
