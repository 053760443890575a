//! A job as a line of JSON.

use std::time::Duration;

use backfill::{JobKeyMode, JobSpec, Payload};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::nearest::nearest;
use crate::value;

/// The names are ours; those of Node's `addJob` and of the SQL type `job_spec` are understood too.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(alias = "identifier")]
    task: String,
    /// Kept byte for byte.
    payload: Option<Box<RawValue>>,
    #[serde(alias = "queueName", alias = "queue_name")]
    queue: Option<String>,
    #[serde(alias = "runAt")]
    run_at: Option<String>,
    #[serde(rename = "in")]
    delay: Option<String>,
    #[serde(alias = "maxAttempts")]
    max_attempts: Option<u32>,
    #[serde(alias = "jobKey", alias = "job_key")]
    key: Option<String>,
    #[serde(alias = "keyMode", alias = "jobKeyMode", alias = "job_key_mode")]
    key_mode: Option<String>,
    priority: Option<i16>,
    flags: Option<Vec<String>>,
}

const NAMES: [&str; 10] =
    ["task", "payload", "queue", "run_at", "in", "max_attempts", "key", "key_mode", "priority", "flags"];
const KEY_MODES: [&str; 3] = ["replace", "preserve_run_at", "unsafe_dedupe"];

/// A job, and its key.
pub struct Parsed {
    pub spec: JobSpec,
    pub key: Option<String>,
}

/// Reads a line, or says what is wrong with it.
pub fn parse(text: &str) -> Result<Parsed, String> {
    let line: Line = serde_json::from_str(text).map_err(|error| explain(&error))?;
    let payload = match line.payload {
        Some(json) if json.get() != "null" => Payload::from_json(json.get()).map_err(|error| error.to_string())?,
        _ => Payload::empty(),
    };
    let mut spec = JobSpec::with_payload(line.task, payload);
    if let Some(queue) = line.queue {
        spec = spec.serial_queue(queue);
    }
    match (line.run_at, line.delay) {
        (Some(_), Some(_)) => return Err("has both run_at and in; give one".to_owned()),
        (Some(time), None) => {
            let time: DateTime<Utc> = value::time(&time).map_err(|problem| format!("run_at {time:?} {problem}"))?;
            spec = spec.run_at(time);
        }
        (None, Some(delay)) => {
            let delay: Duration = value::duration(&delay).map_err(|problem| format!("in {delay:?}: {problem}"))?;
            spec = spec.run_in(delay);
        }
        (None, None) => {}
    }
    if let Some(attempts) = line.max_attempts {
        spec = spec.max_attempts(attempts);
    }
    if let Some(key) = &line.key {
        spec = spec.key(key);
    }
    if let Some(mode) = line.key_mode {
        let parsed = mode.parse::<JobKeyMode>().map_err(|error| match nearest(&mode, KEY_MODES) {
            Some(other) => format!("{error}; did you mean {other:?}?"),
            None => error.to_string(),
        })?;
        spec = spec.key_mode(parsed);
    }
    if let Some(priority) = line.priority {
        spec = spec.priority(priority);
    }
    for flag in line.flags.into_iter().flatten() {
        spec = spec.flag(flag);
    }
    Ok(Parsed { spec, key: line.key })
}

fn explain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let unknown = text.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next());
    if let Some(name) = unknown {
        return match nearest(name, NAMES) {
            Some(known) => format!("has an unknown field {name:?}; did you mean {known:?}?"),
            None => format!("has an unknown field {name:?}; there are {}", NAMES.join(", ")),
        };
    }
    let hint = if error.is_eof() { "; write one job a line, or all of them in a JSON array" } else { "" };
    format!("is no job: {}{hint}", text.replace(" at line 1 column ", " at column "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str) -> String {
        parse(text).err().unwrap_or_else(|| panic!("{text} is accepted"))
    }

    #[test]
    fn a_line_may_use_our_names_and_nodes() {
        let ours = r#"{"task":"t","payload":{"a":1.0},"queue":"q","run_at":"2026-11-21 10:00:00","max_attempts":3,"key":"k",
            "key_mode":"preserve_run_at","priority":-5,"flags":["a","b"]}"#;
        let theirs = r#"{"identifier":"t","payload":{"a":1.0},"queueName":"q","runAt":"2026-11-21T10:00:00.000Z","maxAttempts":3,
            "jobKey":"k","jobKeyMode":"preserve_run_at","priority":-5,"flags":["a","b"]}"#;
        let debug = |text| format!("{:?}", parse(text).unwrap_or_else(|error| panic!("{error}")).spec);
        assert_eq!(debug(ours), debug(theirs));
        assert_eq!(parse(r#"{"task":"t"}"#).unwrap_or_else(|error| panic!("{error}")).spec.task(), "t");
    }

    /// For a moment, or for as many seconds as `BACKFILL_FUZZ_SECONDS` says.
    #[test]
    fn no_line_crashes_the_reader() {
        use proptest::test_runner::{Config, TestRunner};
        let lines = concat!(
            r#"(\{?("(task|payload|queue|run_at|in|max_attempts|key|key_mode|priority|flags|zz)":"#,
            r#"("[^"]{0,9}"|[-0-9e.]{1,9}|null|\["a"\]|\{\}),?){0,5}\}?|.{0,60})"#
        );
        let seconds = std::env::var("BACKFILL_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok());
        let end = std::time::Instant::now() + Duration::from_secs(seconds.unwrap_or(0));
        loop {
            let mut runner = TestRunner::new(Config { cases: 4_000, failure_persistence: None, ..Config::default() });
            let ran = runner.run(&lines, |text| {
                if let Err(problem) = parse(&text) {
                    proptest::prop_assert!(!problem.is_empty());
                }
                Ok(())
            });
            ran.unwrap_or_else(|error| panic!("{error}"));
            if std::time::Instant::now() >= end {
                return;
            }
        }
    }

    #[test]
    fn what_is_wrong_with_a_line_is_said() {
        assert_eq!(
            problem(r#"{"task":"t","prioritty":1}"#),
            "has an unknown field \"prioritty\"; did you mean \"priority\"?"
        );
        assert!(problem(r#"{"task":"t","zzz":1}"#).contains("there are task, payload"));
        assert!(problem(r#"{"payload":1}"#).contains("missing field `task`"));
        assert!(problem(r#"{"task":"t""#).contains("at column"));
        assert!(problem(r#"{"task":"t","run_at":"soon"}"#).contains("run_at \"soon\" is no time"));
        assert!(problem(r#"{"task":"t","in":"5"}"#).contains("5ms"));
        assert!(problem(r#"{"task":"t","in":"5s","run_at":"2026-11-21 10:00:00"}"#).contains("both"));
        assert!(problem(r#"{"task":"t","key_mode":"overwrite"}"#).contains("overwrite"));
        assert!(problem(r#"{"task":"t","key_mode":"repalce"}"#).contains("did you mean \"replace\"?"));
    }
}
