//! The options of a crontab line: `?id=…&fill=…`.

use std::collections::BTreeSet;
use std::time::Duration;

use super::problem::Complaint;
use super::zone::Zone;
use super::{Dialect, hints};
use crate::job::limits::{MAX_KEY_CHARS, MAX_MAX_ATTEMPTS, MAX_QUEUE_NAME_CHARS};
use crate::job::{JobKeyMode, Priority};
use crate::nearest::did_you_mean;

/// What the options of a line say.
#[derive(Default)]
pub(super) struct Options {
    pub id: Option<String>,
    pub fill: Option<Duration>,
    pub max: Option<i16>,
    pub queue: Option<String>,
    pub key: Option<String>,
    pub key_mode: Option<JobKeyMode>,
    pub priority: Option<Priority>,
    pub zone: Zone,
}

const NAMES: [&str; 7] = ["id", "fill", "max", "queue", "jobKey", "jobKeyMode", "priority"];
const EXTENDED_NAMES: [&str; 9] = ["id", "fill", "max", "queue", "jobKey", "jobKeyMode", "priority", "tz", "dialect"];
const KEY_MODES: [&str; 2] = ["replace", "preserve_run_at"];

/// Whether these options switch their line to the extended dialect.
pub(super) fn are_extended(text: &str) -> bool {
    form_urlencoded::parse(text.as_bytes()).any(|(key, value)| key == "dialect" && value == "extended")
}

impl Options {
    /// Reads the text after the question mark, which starts at this place of its line.
    pub(super) fn parse(text: &str, start: usize, dialect: Dialect) -> Result<Self, Vec<Complaint>> {
        let mut options = Self::default();
        let mut complaints = Vec::new();
        let mut given: BTreeSet<String> = BTreeSet::new();
        let mut offset = start;
        for pair in text.split('&') {
            // One pair at a time, to know its place; the decoding (`+`, percent escapes) is that of query strings.
            for (key, value) in form_urlencoded::parse(pair.as_bytes()) {
                let problem = if given.insert(key.to_string()) {
                    options.set(&key, &value, dialect)
                } else {
                    Err(format!("gives {key} a second time"))
                };
                if let Err(problem) = problem {
                    complaints.push(Complaint::new(offset, pair, problem));
                }
            }
            offset += pair.len() + 1;
        }
        if complaints.is_empty() { Ok(options) } else { Err(complaints) }
    }

    fn set(&mut self, key: &str, value: &str, dialect: Dialect) -> Result<(), String> {
        match key {
            "id" if is_made_of(value, "_", "_-") => self.id = Some(value.to_owned()),
            "id" => {
                return Err(
                    "is no identifier: letters, digits, _ and - are allowed, starting with a letter or _".to_owned()
                );
            }
            "fill" => self.fill = Some(time_phrase(value)?),
            "max" => self.max = Some(max_attempts(value)?),
            "queue" => self.queue = Some(queue(value)?),
            "jobKey" => self.key = Some(job_key(value)?),
            "jobKeyMode" => {
                self.key_mode = Some(match value {
                    "replace" => JobKeyMode::Replace,
                    "preserve_run_at" => JobKeyMode::PreserveRunAt,
                    _ => {
                        let meant = did_you_mean(value, KEY_MODES);
                        return Err(format!("is no job key mode: replace or preserve_run_at are{meant}"));
                    }
                });
            }
            "priority" => self.priority = Some(priority(value)?),
            "tz" if dialect == Dialect::Extended => self.zone = Zone::named(value)?,
            "tz" => return Err("belongs to the extended dialect: add dialect=extended to the options".to_owned()),
            "dialect" if value == "extended" => {}
            "dialect" => return Err(format!("is no dialect: extended is{}", did_you_mean(value, ["extended"]))),
            _ => {
                if let Some(hint) = hints::of_option(key, value, dialect == Dialect::Extended) {
                    return Err(hint);
                }
                let known: &[&str] = if dialect == Dialect::Extended { &EXTENDED_NAMES } else { &NAMES };
                let meant = did_you_mean(key, known.iter().copied());
                return Err(format!("is no option; there are {}{meant}", known.join(", ")));
            }
        }
        Ok(())
    }
}

/// Whether the text starts with a letter or one of `first`, and goes on with letters, digits or some of `rest`.
pub(super) fn is_made_of(text: &str, first: &str, rest: &str) -> bool {
    let mut chars = text.chars();
    chars.next().is_some_and(|char| char.is_ascii_alphabetic() || first.contains(char))
        && chars.all(|char| char.is_ascii_alphanumeric() || rest.contains(char))
}

fn digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn max_attempts(value: &str) -> Result<i16, String> {
    let attempts = digits(value).then(|| value.parse::<i16>().ok()).flatten();
    attempts.filter(|attempts| *attempts >= 1).ok_or_else(|| format!("is no number from 1 to {MAX_MAX_ATTEMPTS}"))
}

fn priority(value: &str) -> Result<Priority, String> {
    let number = digits(value.strip_prefix('-').unwrap_or(value)).then(|| value.parse::<i16>().ok()).flatten();
    number.map(Priority).ok_or_else(|| format!("is no number from {} to {}", i16::MIN, i16::MAX))
}

fn queue(value: &str) -> Result<String, String> {
    let fits = !value.is_empty() && value.len() <= MAX_QUEUE_NAME_CHARS;
    let allowed = value.chars().all(|char| char.is_ascii_alphanumeric() || "-_:".contains(char));
    if fits && allowed {
        return Ok(value.to_owned());
    }
    Err(format!("is no queue name: 1 to {MAX_QUEUE_NAME_CHARS} letters, digits, -, _ and : are allowed"))
}

fn job_key(value: &str) -> Result<String, String> {
    let chars = value.chars().count();
    if (1..=MAX_KEY_CHARS).contains(&chars) && !value.contains(['\n', '\r', '\0']) {
        return Ok(value.to_owned());
    }
    Err(format!("is no job key: 1 to {MAX_KEY_CHARS} characters are allowed, without line breaks"))
}

/// `4w3d2h1m30s`, or any of its parts in any order: they are added up.
pub(crate) fn time_phrase(text: &str) -> Result<Duration, String> {
    let wrong = || "is no time phrase: it looks like 1d12h, with s, m, h, d and w".to_owned();
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|char: char| !char.is_ascii_digit()).filter(|end| *end > 0).ok_or_else(wrong)?;
        let unit = match rest.as_bytes()[end] {
            b's' => 1,
            b'm' => 60,
            b'h' => 3_600,
            b'd' => 86_400,
            b'w' => 604_800,
            _ => return Err(wrong()),
        };
        let part = rest[..end].parse::<u64>().ok().and_then(|count| count.checked_mul(unit));
        total = part
            .and_then(|seconds| total.checked_add(Duration::from_secs(seconds)))
            .filter(|total| *total <= Duration::from_secs(100 * 365 * 86_400))
            .ok_or_else(|| "is longer than a hundred years".to_owned())?;
        rest = &rest[end + 1..];
    }
    if text.is_empty() { Err(wrong()) } else { Ok(total) }
}
