//! Crontab text.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::schedule::Schedule;
use crate::error::{Error, Result};
use crate::job::limits::{MAX_KEY_CHARS, MAX_MAX_ATTEMPTS, MAX_QUEUE_NAME_CHARS, MAX_TASK_NAME_CHARS};
use crate::job::{JobKeyMode, Payload, Priority};

/// The entries of a crontab, in the order of their lines. No two have the same identifier.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Crontab {
    entries: Vec<CronEntry>,
}

impl Crontab {
    /// The entries.
    #[must_use]
    pub fn entries(&self) -> &[CronEntry] {
        &self.entries
    }
}

/// One line of a crontab.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct CronEntry {
    /// What it is known by in the database.
    pub identifier: String,
    /// The task whose jobs it adds.
    pub task: String,
    /// When it is due.
    pub schedule: Schedule,
    /// How far back missed minutes are caught up.
    pub backfill: Duration,
    /// `max_attempts` of its jobs, if not the default.
    pub max_attempts: Option<i16>,
    /// Their serial queue.
    pub queue: Option<String>,
    /// Their key.
    pub key: Option<String>,
    /// What to do when the key is taken.
    pub key_mode: JobKeyMode,
    /// Their priority.
    pub priority: Priority,
    /// Their payload: a JSON object, to which `_cron` is added.
    pub payload: Payload,
}

/// What is wrong with a crontab, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CrontabProblem {
    /// The line, from 1.
    pub line: usize,
    /// The column, in characters, from 1.
    pub column: usize,
    /// The offending text.
    pub text: String,
    /// What is wrong with it.
    pub problem: String,
}

impl fmt::Display for CrontabProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: {:?} {}", self.line, self.column, self.text, self.problem)
    }
}

/// A problem whose place is known within its line only, in bytes.
#[derive(Debug)]
pub(super) struct Complaint {
    pub offset: usize,
    pub text: String,
    pub problem: String,
}

impl Complaint {
    fn new(offset: usize, text: &str, problem: impl Into<String>) -> Self {
        Self { offset, text: text.to_owned(), problem: problem.into() }
    }

    pub(super) fn at(self, line: usize, text: &str) -> CrontabProblem {
        let before = text.get(..self.offset).unwrap_or(text);
        CrontabProblem { line, column: before.chars().count() + 1, text: self.text, problem: self.problem }
    }
}

impl FromStr for Crontab {
    type Err = Error;

    /// Reads a whole text and tells every problem in it at once.
    fn from_str(text: &str) -> Result<Self> {
        let mut entries: Vec<CronEntry> = Vec::new();
        let mut problems = Vec::new();
        let mut lines_of: HashMap<String, usize> = HashMap::new();
        for (number, line) in (1..).zip(text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line))) {
            let trimmed = line.trim();
            if trimmed.is_empty() || trimmed.starts_with('#') {
                continue;
            }
            match entry(line) {
                Ok(entry) => {
                    if let Some(first) = lines_of.insert(entry.identifier.clone(), number) {
                        let again = format!(
                            "is the identifier of line {first} already; give this entry another with the option id"
                        );
                        let offset = line.find(&entry.task).unwrap_or_default();
                        problems.push(Complaint::new(offset, &entry.identifier, again).at(number, line));
                    }
                    entries.push(entry);
                }
                Err(complaints) => problems.extend(complaints.into_iter().map(|complaint| complaint.at(number, line))),
            }
        }
        if problems.is_empty() { Ok(Self { entries }) } else { Err(Error::InvalidCrontab(problems)) }
    }
}

/// The words of a text, each with its place in bytes.
pub(super) fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.split_whitespace().map(move |word| (word.as_ptr() as usize - text.as_ptr() as usize, word))
}

fn entry(line: &str) -> Result<CronEntry, Vec<Complaint>> {
    let mut parts = words(line);
    let fields = [parts.next(), parts.next(), parts.next(), parts.next(), parts.next()];
    let ([Some(minute), Some(hour), Some(date), Some(month), Some(day)], Some((command, task))) =
        (fields, parts.next())
    else {
        let problem = "is no crontab line: five time fields and a task are needed";
        return Err(vec![Complaint::new(line.len() - line.trim_start().len(), line.trim(), problem)]);
    };
    let mut complaints = Vec::new();
    let schedule =
        Schedule::from_fields(&[minute, hour, date, month, day]).map_err(|more| complaints.extend(more)).ok();
    let command = Command::parse(line, command, task).map_err(|more| complaints.extend(more)).ok();
    match (schedule, command) {
        (Some(schedule), Some(command)) => Ok(command.entry(schedule)),
        _ => Err(complaints),
    }
}

/// What follows the time fields.
struct Command<'a> {
    task: &'a str,
    options: Options,
    payload: Payload,
}

#[derive(Default)]
struct Options {
    id: Option<String>,
    fill: Option<Duration>,
    max: Option<i16>,
    queue: Option<String>,
    key: Option<String>,
    key_mode: Option<JobKeyMode>,
    priority: Option<Priority>,
}

const OPTION_NAMES: [&str; 7] = ["id", "fill", "max", "queue", "jobKey", "jobKeyMode", "priority"];

impl<'a> Command<'a> {
    fn parse(line: &str, start: usize, task: &'a str) -> Result<Self, Vec<Complaint>> {
        let mut complaints = Vec::new();
        if let Err(problem) = check_task(task) {
            complaints.push(Complaint::new(start, task, problem));
        }
        let mut rest_start = start + task.len();
        let mut options = Options::default();
        if let Some((place, word)) = words(&line[rest_start..]).next()
            && let Some(text) = word.strip_prefix('?')
        {
            let text_start = rest_start + place + 1;
            match parse_options(text, text_start) {
                Ok(parsed) => options = parsed,
                Err(more) => complaints.extend(more),
            }
            rest_start = text_start + text.len();
        }
        let rest = line[rest_start..].trim();
        let payload = if rest.is_empty() {
            Ok(Payload::empty())
        } else {
            let offset = rest_start + (line[rest_start..].len() - line[rest_start..].trim_start().len());
            parse_payload(rest).map_err(|problem| Complaint::new(offset, rest, problem))
        };
        match payload {
            Ok(payload) if complaints.is_empty() => Ok(Self { task, options, payload }),
            Ok(_) => Err(complaints),
            Err(complaint) => {
                complaints.push(complaint);
                Err(complaints)
            }
        }
    }

    fn entry(self, schedule: Schedule) -> CronEntry {
        let options = self.options;
        CronEntry {
            identifier: options.id.unwrap_or_else(|| self.task.to_owned()),
            task: self.task.to_owned(),
            schedule,
            backfill: options.fill.unwrap_or_default(),
            max_attempts: options.max,
            queue: options.queue,
            key: options.key,
            key_mode: options.key_mode.unwrap_or_default(),
            priority: options.priority.unwrap_or_default(),
            payload: self.payload,
        }
    }
}

fn check_task(task: &str) -> Result<(), String> {
    if !is_made_of(task, "_", "_:/-") {
        return Err(
            "is no task name: letters, digits, _, :, / and - are allowed, starting with a letter or _".to_owned()
        );
    }
    if task.len() > MAX_TASK_NAME_CHARS {
        return Err(format!("is too long for a task name: {MAX_TASK_NAME_CHARS} characters are allowed"));
    }
    Ok(())
}

/// Whether the text starts with a letter or one of `first`, and goes on with letters, digits or some of `rest`.
fn is_made_of(text: &str, first: &str, rest: &str) -> bool {
    let mut chars = text.chars();
    chars.next().is_some_and(|char| char.is_ascii_alphabetic() || first.contains(char))
        && chars.all(|char| char.is_ascii_alphanumeric() || rest.contains(char))
}

fn parse_options(text: &str, start: usize) -> Result<Options, Vec<Complaint>> {
    let mut options = Options::default();
    let mut complaints = Vec::new();
    let mut given: BTreeMap<String, String> = BTreeMap::new();
    let mut offset = start;
    for pair in text.split('&') {
        // One pair at a time, to know its place; the decoding (`+`, percent escapes) is that of query strings.
        for (key, value) in form_urlencoded::parse(pair.as_bytes()) {
            let problem = if given.insert(key.to_string(), value.to_string()).is_some() {
                Err(format!("gives {key} a second time"))
            } else {
                set_option(&mut options, &key, &value)
            };
            if let Err(problem) = problem {
                complaints.push(Complaint::new(offset, pair, problem));
            }
        }
        offset += pair.len() + 1;
    }
    if complaints.is_empty() { Ok(options) } else { Err(complaints) }
}

fn set_option(options: &mut Options, key: &str, value: &str) -> Result<(), String> {
    match key {
        "id" if is_made_of(value, "_", "_-") => options.id = Some(value.to_owned()),
        "id" => {
            return Err(
                "is no identifier: letters, digits, _ and - are allowed, starting with a letter or _".to_owned()
            );
        }
        "fill" => options.fill = Some(time_phrase(value)?),
        "max" => options.max = Some(max_attempts(value)?),
        "queue" => options.queue = Some(queue(value)?),
        "jobKey" => options.key = Some(job_key(value)?),
        "jobKeyMode" => {
            options.key_mode = Some(match value {
                "replace" => JobKeyMode::Replace,
                "preserve_run_at" => JobKeyMode::PreserveRunAt,
                _ => return Err("is no job key mode: replace or preserve_run_at are".to_owned()),
            });
        }
        "priority" => options.priority = Some(priority(value)?),
        _ => return Err(format!("is no option; there are {}", OPTION_NAMES.join(", "))),
    }
    Ok(())
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
fn time_phrase(text: &str) -> Result<Duration, String> {
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

fn parse_payload(text: &str) -> Result<Payload, String> {
    if !(text.starts_with('{') && text.ends_with('}')) {
        return Err(
            "is no payload: a JSON5 object in braces is expected here (there are no trailing comments)".to_owned()
        );
    }
    let value: serde_json::Value = json5::from_str(text).map_err(|error| format!("is not JSON5: {error}"))?;
    Payload::new("", &value).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn crontab(text: &str) -> Crontab {
        text.parse().unwrap_or_else(|error| panic!("{error}"))
    }

    fn problems(text: &str) -> Vec<String> {
        match text.parse::<Crontab>() {
            Err(Error::InvalidCrontab(problems)) => problems.iter().map(ToString::to_string).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn everything_a_line_can_say_is_understood() {
        let text = "# comment\r\n\n  0  4\t* * 1-5   ns/send:report \
            ?id=daily&fill=1d2h&max=3&queue=q:1&jobKey=a%20b+c&jobKeyMode=preserve_run_at&priority=-7 {a: 'x', /* c */ b: [0x10,],}";
        let entries = crontab(text).entries;
        assert_eq!(entries.len(), 1);
        let entry = &entries[0];
        assert_eq!((entry.identifier.as_str(), entry.task.as_str()), ("daily", "ns/send:report"));
        assert_eq!(entry.schedule.to_string(), "0 4 * * 1,2,3,4,5");
        assert_eq!(entry.backfill, Duration::from_secs(26 * 3600));
        assert_eq!(
            (entry.max_attempts, entry.queue.as_deref(), entry.key.as_deref()),
            (Some(3), Some("q:1"), Some("a b c"))
        );
        assert_eq!((entry.key_mode, entry.priority), (JobKeyMode::PreserveRunAt, Priority(-7)));
        assert_eq!(entry.payload.as_str(), r#"{"a":"x","b":[16]}"#);
        assert_eq!(crontab("* * * * * t").entries[0].identifier, "t");
        assert!(crontab("").entries.is_empty());
    }

    #[test]
    fn every_problem_of_a_text_is_told_with_its_place() {
        let text = "60 4 * * * a\n* * * * *\n* 5-1 * */0 1-5/2 b # no\n\n* * * * * c ?max=0&nope=1&id=x&id=y\n* * * * * d\n* * * * * d\n* * * * * é {]}";
        assert_eq!(
            problems(text),
            [
                r#"line 1, column 1: "60" is too large: minutes go from 0 to 59"#,
                r#"line 2, column 1: "* * * * *" is no crontab line: five time fields and a task are needed"#,
                r#"line 3, column 3: "5-1" is no range of hours: its end must be larger than its start"#,
                r#"line 3, column 9: "*/0" is no step for months: it must be greater than zero"#,
                r#"line 3, column 13: "1-5/2" is neither a number, nor a range like 0-6, nor * or */n, which days of week may be"#,
                r##"line 3, column 21: "# no" is no payload: a JSON5 object in braces is expected here (there are no trailing comments)"##,
                r#"line 5, column 14: "max=0" is no number from 1 to 32767"#,
                r#"line 5, column 20: "nope=1" is no option; there are id, fill, max, queue, jobKey, jobKeyMode, priority"#,
                r#"line 5, column 32: "id=y" gives id a second time"#,
                r#"line 7, column 11: "d" is the identifier of line 6 already; give this entry another with the option id"#,
                r#"line 8, column 11: "é" is no task name: letters, digits, _, :, / and - are allowed, starting with a letter or _"#,
                problems(text).last().expect("a last one"),
            ]
        );
        assert!(problems(text).last().is_some_and(|last| last.starts_with("line 8, column 13: \"{]}\" is not JSON5")));
    }

    #[test]
    fn what_node_would_only_trip_over_at_run_time_is_refused_at_once() {
        for options in ["max=0", "max=99999", "jobKey=", "priority=40000", "fill=99999999999999w"] {
            assert_eq!(problems(&format!("* * * * * t ?{options}")).len(), 1, "{options}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(?s).{0,200}", line in "[*0-9 ]{0,20}[a-z?=&{}:'\"%+é]{0,60}") {
            let _ = text.parse::<Crontab>();
            let _ = line.parse::<Crontab>();
            let _ = format!("* * * * * {line}").parse::<Crontab>();
        }
    }
}
