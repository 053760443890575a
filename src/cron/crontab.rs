//! Crontab text.

use std::collections::HashMap;
use std::str::FromStr;

use super::entry::CronEntry;
use super::nested::Nested;
use super::options::{self, Options, is_made_of};
use super::pattern::Pattern;
use super::problem::{Complaint, CrontabProblem};
use super::{Dialect, Schedule, hints};
use crate::error::{Error, Result};
use crate::job::Payload;
use crate::job::limits::MAX_TASK_NAME_CHARS;
use crate::nearest::did_you_mean;

/// The entries of a crontab, in their order. No two have the same identifier.
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

    /// The entries, to be kept.
    #[must_use]
    pub fn into_entries(self) -> Vec<CronEntry> {
        self.entries
    }

    /// Reads a whole text, whose lines are in this dialect until one of them says otherwise (see the
    /// [module](crate::cron)'s documentation).
    ///
    /// # Errors
    /// [`Error::InvalidCrontab`] with every problem of the text.
    pub fn parse(text: &str, dialect: Dialect) -> Result<Self> {
        let mut dialect = dialect;
        // Some editors begin a file with this mark, which Node trims.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut entries: Vec<CronEntry> = Vec::new();
        let mut problems: Vec<CrontabProblem> = Vec::new();
        let mut lines_of: HashMap<String, usize> = HashMap::new();
        for (number, line) in (1..).zip(text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line))) {
            let trimmed = line.trim_matches(is_space);
            if let Some(comment) = trimmed.strip_prefix('#') {
                match dialect_of(comment) {
                    Some(Ok(other)) => dialect = other,
                    Some(Err(word)) => {
                        let offset = word.as_ptr() as usize - line.as_ptr() as usize;
                        let meant = did_you_mean(word, ["graphile", "extended"]);
                        let problem = format!("is no dialect: there are graphile and extended{meant}");
                        problems.push(Complaint::new(offset, word, problem).at(number, line));
                    }
                    None => {}
                }
                continue;
            }
            if trimmed.is_empty() {
                continue;
            }
            match entry(line, dialect) {
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
                Err(complaints) => {
                    let told = problems.len();
                    problems.extend(complaints.into_iter().map(|complaint| complaint.at(number, line)));
                    if dialect == Dialect::Graphile && entry(line, Dialect::Extended).is_ok() {
                        let hint = "; the extended dialect knows it: put the comment `# dialect: extended` above it, or the \
                                    option ?dialect=extended on the line (Node's worker knows neither)";
                        problems.iter_mut().skip(told).take(1).for_each(|first| first.problem.push_str(hint));
                    }
                }
            }
        }
        if problems.is_empty() { Ok(Self { entries }) } else { Err(Error::InvalidCrontab(problems)) }
    }
}

impl FromStr for Crontab {
    type Err = Error;

    /// Reads a whole text in Graphile's dialect, and tells every problem in it at once.
    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text, Dialect::Graphile)
    }
}

/// What a comment says about the lines after it, such as `dialect: extended`: a dialect, or a word that is none.
fn dialect_of(comment: &str) -> Option<Result<Dialect, &str>> {
    match comment.trim().strip_prefix("dialect:")?.trim() {
        "extended" => Some(Ok(Dialect::Extended)),
        "graphile" => Some(Ok(Dialect::Graphile)),
        // A comment that goes on is one for people.
        word if word.is_empty() || word.contains(char::is_whitespace) => None,
        word => Some(Err(word)),
    }
}

/// White space as JavaScript's regular expressions have it, and so Node's parser: with U+FEFF, and without U+0085.
pub(super) fn is_space(char: char) -> bool {
    char == '\u{feff}' || (char.is_whitespace() && char != '\u{85}')
}

/// The words of a text, each with its place in bytes.
pub(super) fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.split(is_space)
        .filter(|word| !word.is_empty())
        .map(move |word| (word.as_ptr() as usize - text.as_ptr() as usize, word))
}

fn entry(line: &str, dialect: Dialect) -> Result<CronEntry, Vec<Complaint>> {
    let all: Vec<(usize, &str)> = words(line).collect();
    // Everything up to the options or the payload.
    let plain = all.iter().take_while(|(_, word)| !word.starts_with(['?', '{'])).count();
    let switched = all.get(plain).and_then(|(_, word)| word.strip_prefix('?')).is_some_and(options::are_extended);
    let dialect = if switched { Dialect::Extended } else { dialect };
    let (fields, command, what) = match dialect {
        Dialect::Graphile => (all.get(..5), all.get(5), "five time fields and a task are needed"),
        // How many fields there are is free, so the task is the last word.
        Dialect::Extended => {
            let task = plain.checked_sub(1).filter(|task| *task > 0);
            let needed = "time fields (or a name like @daily) and a task are needed";
            (task.and_then(|task| all.get(..task)), task.and_then(|task| all.get(task)), needed)
        }
    };
    let (Some(fields), Some((start, task))) = (fields, command) else {
        let problem = hints::of_variable(line, dialect == Dialect::Extended)
            .unwrap_or_else(|| format!("is no crontab line: {what}"));
        return Err(vec![Complaint::new(
            line.len() - line.trim_start_matches(is_space).len(),
            line.trim_matches(is_space),
            problem,
        )]);
    };
    let mut complaints = Vec::new();
    // JavaScript's dot matches none of these.
    if let Some((place, _)) =
        line.trim_end_matches(is_space)[*start..].match_indices(['\r', '\u{2028}', '\u{2029}']).next()
    {
        complaints.push(Complaint::new(
            start + place,
            "",
            "is a line break of another kind, within a line; take it out",
        ));
    }
    let pattern = Pattern::parse(fields, dialect).map_err(|more| complaints.extend(more)).ok();
    let command = Command::parse(line, *start, task, dialect).map_err(|more| complaints.extend(more)).ok();
    match (pattern, command) {
        (Some(pattern), Some(command)) if complaints.is_empty() => Ok(command.entry(pattern)),
        _ => Err(complaints),
    }
}

/// What follows the time fields.
struct Command<'a> {
    task: &'a str,
    options: Options,
    payload: Payload,
}

impl<'a> Command<'a> {
    fn parse(line: &str, start: usize, task: &'a str, dialect: Dialect) -> Result<Self, Vec<Complaint>> {
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
            if text.is_empty() {
                complaints.push(Complaint::new(text_start - 1, word, "has no options after it"));
            }
            match Options::parse(text, text_start, dialect) {
                Ok(parsed) => options = parsed,
                Err(more) => complaints.extend(more),
            }
            rest_start = text_start + text.len();
        }
        let rest = line[rest_start..].trim_matches(is_space);
        let payload = if rest.is_empty() {
            Ok(Payload::empty())
        } else {
            let offset =
                rest_start + (line[rest_start..].len() - line[rest_start..].trim_start_matches(is_space).len());
            parse_payload(rest).map_err(|(place, problem)| Complaint::new(offset + place, &rest[place..], problem))
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

    fn entry(self, pattern: Pattern) -> CronEntry {
        let options = self.options;
        let mut entry = CronEntry::new(self.task, Schedule::from(pattern).in_zone(options.zone));
        entry.identifier = options.id.unwrap_or(entry.identifier);
        entry.backfill = options.fill.unwrap_or_default();
        entry.max_attempts = options.max;
        entry.queue = options.queue;
        entry.key = options.key;
        entry.key_mode = options.key_mode.unwrap_or_default();
        entry.priority = options.priority.unwrap_or_default();
        entry.payload = self.payload;
        entry
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

/// A problem comes with its place in the text, in bytes.
fn parse_payload(text: &str) -> Result<Payload, (usize, String)> {
    if !(text.starts_with('{') && text.ends_with('}')) {
        let problem = "is no payload: a JSON5 object in braces is expected here (there are no trailing comments)";
        return Err((0, problem.to_owned()));
    }
    let Nested(value) = json5::from_str(text).map_err(|error| {
        if let Some(place) = hints::half_character(text) {
            let problem =
                "is half of a surrogate pair, which is no character; write the character itself, or both halves";
            return (place, problem.to_owned());
        }
        // A text of one line, so the column is the place. (Without one, it is the whole that is wrong.)
        let column = error.position().map_or(0, |position| position.column);
        let place = text.char_indices().nth(column).map_or(0, |(place, _)| place);
        let what = error.code().map_or_else(|| error.to_string(), |code| code.to_string());
        (place, format!("is not JSON5: {what}"))
    })?;
    Payload::new("", &value).map_err(|error| (0, error.to_string()))
}

#[cfg(test)]
mod tests;
