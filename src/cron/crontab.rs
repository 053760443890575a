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
mod tests {
    use super::*;
    use crate::job::{JobKeyMode, Priority};
    use proptest::prelude::*;
    use std::time::Duration;

    fn crontab(text: &str) -> Crontab {
        text.parse().unwrap_or_else(|error| panic!("{error}"))
    }

    /// On a thread as small as a runtime's may be.
    #[test]
    fn payloads_nested_too_deep_are_refused_and_do_not_use_up_the_stack() {
        let parse = |text: String| {
            let thread = std::thread::Builder::new().stack_size(512 * 1024);
            thread.spawn(move || text.parse::<Crontab>()).expect("a thread").join().expect("no panic")
        };
        let lists = |depth: usize| format!("* * * * * t {{a:{}{}}}", "[".repeat(depth), "]".repeat(depth));
        let objects = |depth: usize| format!("* * * * * t {}{}", "{a:".repeat(depth), "1}".repeat(depth));
        for text in [lists(127), lists(10_000), objects(128), objects(10_000), "* * * * * t {[".repeat(9_999) + "}"] {
            let error = parse(text).expect_err("too deep").to_string();
            assert!(error.contains("is not JSON5"), "{}", &error[error.len() - 200..]);
        }
        // What is taken can be read by a task.
        let crontab = parse(lists(126)).expect("deep enough");
        let payload: Result<serde_json::Value, _> = crontab.entries()[0].payload.decode();
        assert!(payload.is_ok());
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
    fn what_other_crontabs_have_is_refused_with_what_to_write_instead() {
        for (text, says) in [
            ("CRON_TZ=Europe/Berlin", "put the comment `# dialect: extended` above, and the option ?tz=Europe/Berlin"),
            (" TZ = UTC ", "?tz=UTC on each line"),
            (
                "# dialect: extended\nCRON_TZ=Asia/Tokyo",
                "for all lines, which is not known; put the option ?tz=Asia/Tokyo on each line",
            ),
            ("SHELL=/bin/sh", "tasks have the environment of their worker"),
            ("0 4 * * * t ?timezone=Europe/Berlin", "a time zone is ?dialect=extended&tz=Europe/Berlin"),
            ("# dialect: extended\n0 4 * * * t ?timeZone=UTC", "is no option; a time zone is ?tz=UTC"),
            ("0 4 * * * t ?dialect=extended&zone=UTC", "is no option; a time zone is ?tz=UTC"),
            ("0 4 * * * t {a: '\\ud83d'}", "is half of a surrogate pair"),
            ("0 4 * * * t {'\\udc00': 1}", "line 1, column 15: \"\\\\udc00"),
        ] {
            let told = problems(text);
            assert!(told.len() == 1 && told[0].contains(says), "{text}: {told:?}");
        }
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
        assert!(problems(text).last().is_some_and(|last| last.starts_with("line 8, column 14: \"]}\" is not JSON5: ")));
    }

    #[test]
    fn the_extended_dialect_is_switched_on_by_a_line_or_a_comment() {
        let by_line = crontab("*/10 * * * * MON-FRI t ?dialect=extended&tz=UTC&id=a {a: 1}\n* * * * * t");
        assert_eq!(by_line.entries[0].schedule.to_string(), "0,10,20,30,40,50 * * * * 1,2,3,4,5");
        assert_eq!((by_line.entries[0].identifier.as_str(), by_line.entries[0].task.as_str()), ("a", "t"));
        let by_comment =
            crontab("# dialect: extended\n@daily a\n0 4 * JAN-MAR/2 * b {x: 1}\n# dialect: graphile\n0 4 * * 1 c");
        assert_eq!(by_comment.entries[1].schedule.to_string(), "0 4 * 1,3 *");
        assert_eq!(by_comment.entries.len(), 3);
        // Without the switch, a file means to us what it means to Node.
        for line in ["@daily a", "0 4 * * MON a", "0 0 4 * * * a", "1-5/2 * * * * a", "0 4 * * * a ?tz=UTC"] {
            assert!(!problems(line).is_empty(), "{line}");
            assert!(Crontab::parse(line, Dialect::Extended).is_ok(), "{line}");
        }
        assert!(!problems("# dialect: extended\n@daily a\n# dialect: graphile\n@daily b").is_empty());
        assert_eq!(crontab("# dialect: a word for people\n* * * * * a").entries.len(), 1);
        assert_eq!(
            problems("* * * * * a\n# dialect: extnded\n@daily a"),
            [
                "line 2, column 12: \"extnded\" is no dialect: there are graphile and extended; did you mean \"extended\"?"
                    .to_owned(),
                problems("\n\n@daily a").remove(0),
            ]
        );
        assert!(problems("0 4 * * MON a")[0].contains("`# dialect: extended`"));
        assert_eq!(crontab("\u{feff}# from an editor\n* * * * * a").entries.len(), 1);
    }

    #[test]
    fn problems_of_the_extended_dialect_are_told_with_their_place() {
        let text = "# dialect: extended\n@dayly a\n@daily\n* * a\n0 4 * * MOO b ?tz=Nowhere/Land&x=1&dialect=klingon";
        let told = problems(text);
        assert!(
            told[0].starts_with("line 2, column 1: \"@dayly\" is no time: five or six fields are, or one of @yearly")
        );
        assert!(told[0].ends_with("; did you mean \"@daily\"?"), "{}", told[0]);
        assert!(told[1].starts_with("line 3, column 1: \"@daily\" is no crontab line"));
        assert!(told[2].starts_with("line 4, column 1: \"* *\" is no time"));
        assert!(told[3].starts_with("line 5, column 9: \"MOO\" is neither a number or a name from SUN to SAT"));
        assert!(told[4].starts_with("line 5, column 16: \"tz=Nowhere/Land\""), "{told:#?}");
        assert!(told[5].starts_with("line 5, column 32: \"x=1\" is no option; there are id,"));
        assert!(told[6].ends_with("is no dialect: extended is"));
        assert_eq!(told.len(), 7);
    }

    #[test]
    fn every_problem_of_a_line_has_its_words() {
        let long = "x".repeat(129);
        for (line, says) in [
            ("* * * * * a ?id=1x", "\"id=1x\" is no identifier: letters, digits, _ and - are allowed"),
            ("* * * * * a ?fill=d", "\"fill=d\" is no time phrase: it looks like 1d12h"),
            ("* * * * * a ?fill=99999w", "is longer than a hundred years"),
            ("* * * * * a ?queue=a%20b", "is no queue name: 1 to 128 letters"),
            ("* * * * * a ?jobKey=", "is no job key: 1 to 512 characters"),
            ("* * * * * a ?jobKeyMode=once", "is no job key mode: replace or preserve_run_at are"),
            ("* * * * * a ?max=x", "is no number from 1 to 32767"),
            ("* * * * * a ?priority=x", "is no number from -32768 to 32767"),
            ("* * * * * a ?tz=UTC", "belongs to the extended dialect: add dialect=extended"),
            ("* * * * * a ?", "\"?\" has no options after it"),
            (&*format!("* * * * * {long}"), "is too long for a task name"),
            ("* * 0 * * a", "\"0\" is too small: dates go from 1 to 31"),
            ("* * * * 8 a", "\"8\" is too large: days of week go from 0 to 6"),
            ("* * * * * a \u{2028} {}", "is a line break of another kind"),
        ] {
            let told = problems(line).join("\n");
            assert!(told.contains(says), "{line}: {told}");
        }
    }

    #[test]
    fn names_that_are_nearly_known_are_recognised() {
        for (line, meant) in [
            ("* * * * * a ?fil=1d", "fill"),
            ("* * * * * a ?jobkey=x", "jobKey"),
            ("* * * * * a ?jobKeyMode=preserve_runat", "preserve_run_at"),
            ("* * * * * a ?dialect=extendet", "extended"),
            ("0 4 * Jnu * a ?dialect=extended", "JUN"),
            ("* * * * * a ?dialect=extended&tzz=UTC", "tz"),
        ] {
            let told = problems(line).remove(0);
            assert!(told.ends_with(&format!("; did you mean {meant:?}?")), "{line}: {told}");
        }
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
            let _ = Crontab::parse(&text, Dialect::Extended);
            let _ = Crontab::parse(&format!("@daily {line}"), Dialect::Extended);
        }
    }
}
