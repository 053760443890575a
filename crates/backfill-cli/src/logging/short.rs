//! The log on a terminal: short lines, which are broken between words.
//!
//! `20:11:59 hello #1 done in 4.2ms` says what `2026-11-30T20:11:59.523843Z DEBUG the job is done job=1 task="hello" attempt=1
//! took=4.202062ms` does. Off a terminal, and for machines, the latter stays.

use std::fmt::{self, Write as _};
use std::io::Write as _;

use chrono::Local;
use clap::ColorChoice;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::Log;
use crate::output::{one_line, wrapped};
use crate::screen::{Screen, Style};

/// Where the words begin, behind the time.
const INDENT: usize = 9;
/// What the library logs of the ends of jobs.
const OF_JOBS: &str = "backfill::job";
/// What programs print.
const OF_PROGRAMS: &str = "backfill::task";

pub struct Short(pub ColorChoice);

impl<S: Subscriber + for<'s> LookupSpan<'s>> Layer<S> for Short {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut fields = Fields::default();
            attributes.record(&mut fields);
            span.extensions_mut().insert(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let job = context.event_scope(event).into_iter().flatten().find_map(|span| {
            let extensions = span.extensions();
            let of_span = extensions.get::<Fields>().filter(|_| span.name() == "job")?;
            Some(name_of(of_span.get("task")?, of_span.get("id")?))
        });
        let (style, text) = line(*event.metadata().level(), event.metadata().target(), fields, job);
        let screen = Screen::err(self.0);
        let time = screen.paint(Style::Dim, &Local::now().format("%H:%M:%S").to_string());
        let text = screen.paint(style, &wrapped(&text, screen.width(), INDENT));
        // Who reads it may be gone.
        let _ = Log.write_all(format!("{time} {text}\n").as_bytes());
    }
}

/// What is told with an event, in its order.
#[derive(Default)]
struct Fields {
    message: String,
    rest: Vec<(&'static str, String)>,
}

impl Fields {
    fn get(&self, name: &str) -> Option<&str> {
        self.rest.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    fn take(&mut self, name: &str) -> Option<String> {
        let place = self.rest.iter().position(|(known, _)| *known == name)?;
        Some(self.rest.remove(place).1)
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
        } else {
            self.rest.push((field.name(), value.to_owned()));
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

fn name_of(task: &str, id: &str) -> String {
    format!("{} #{id}", one_line(task))
}

/// How an event looks, and its text. What was said by others has no control characters in it.
fn line(level: Level, target: &str, mut fields: Fields, job: Option<String>) -> (Style, String) {
    let mut style = match level {
        Level::ERROR => Style::Bad,
        Level::WARN => Style::Warning,
        Level::INFO => Style::Plain,
        _ => Style::Dim,
    };
    let mut text = String::new();
    if target == OF_PROGRAMS && job.is_some() {
        style =
            if fields.take("stream").is_some_and(|stream| stream == "stderr") { Style::Warning } else { Style::Plain };
    } else if target == OF_JOBS
        && let (Some(id), Some(task)) = (fields.take("job"), fields.take("task"))
    {
        return (if style == Style::Dim { Style::Plain } else { style }, end_of_job(&name_of(&task, &id), fields));
    } else if level <= Level::WARN {
        text += if level == Level::ERROR { "error: " } else { "warning: " };
    }
    if let Some(job) = job {
        let _ = write!(text, "{job}: ");
    }
    text += &one_line(&fields.message);
    text += &others(&fields);
    (style, text)
}

/// How a job ended: `hello #1 done in 4.2ms`.
fn end_of_job(name: &str, mut fields: Fields) -> String {
    let message = fields.message.strip_prefix("the job ").unwrap_or(&fields.message);
    let mut text = format!("{name} {}", one_line(message.strip_prefix("is ").unwrap_or(message)));
    if let Some(took) = fields.take("took") {
        let _ = write!(text, " in {}", rounded(&took));
    }
    if let Some(attempt) = fields.take("attempt").filter(|attempt| attempt != "1") {
        let _ = write!(text, ", attempt {attempt}");
    }
    if let Some(retry) = fields.take("retry") {
        match retry.strip_prefix("In(").and_then(|delay| delay.strip_suffix(')')) {
            Some(delay) => _ = write!(text, ", again in {}", rounded(delay)),
            None => _ = write!(text, ", again: {}", one_line(&retry)),
        }
    }
    let error = fields.take("error");
    text += &others(&fields);
    if let Some(error) = error {
        let _ = write!(text, ": {}", one_line(&error));
    }
    text
}

/// The other fields that say something.
fn others(fields: &Fields) -> String {
    let mut text = String::new();
    for (name, value) in fields.rest.iter().filter(|(_, value)| !matches!(value.as_str(), "" | "0")) {
        let value = one_line(value);
        let quote = if value.contains(' ') && !value.starts_with('"') { "\"" } else { "" };
        let _ = write!(text, " {name}={quote}{value}{quote}");
    }
    text
}

/// `2.718281828s` to one digit behind the point.
fn rounded(duration: &str) -> String {
    let Some((whole, rest)) = duration.split_once('.') else { return duration.to_owned() };
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    format!("{whole}.{}{}", &rest[..digits.min(1)], &rest[digits..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(message: &str, rest: &[(&'static str, &str)]) -> Fields {
        let rest = rest.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        Fields { message: message.to_owned(), rest }
    }

    #[test]
    fn ends_of_jobs_are_told_as_people_do() {
        let of = |level, message: &str, rest: &[(&'static str, &str)]| {
            line(level, OF_JOBS, fields(message, &[&[("job", "7"), ("task", "mail")][..], rest].concat()), None)
        };
        let done = of(Level::DEBUG, "the job is done", &[("attempt", "1"), ("took", "2.522062ms")]);
        assert_eq!(done, (Style::Plain, "mail #7 done in 2.5ms".to_owned()));
        let failed = [("attempt", "2"), ("error", "no\nnet"), ("retry", "In(7.389s)")];
        let failed = of(Level::WARN, "the job failed", &failed);
        assert_eq!(failed, (Style::Warning, "mail #7 failed, attempt 2, again in 7.3s: no\\nnet".to_owned()));
        let dead = of(Level::ERROR, "the job is dead: no attempts left", &[("attempt", "1"), ("error", "\x1b[2J")]);
        assert_eq!(dead, (Style::Bad, "mail #7 dead: no attempts left: \\u{1b}[2J".to_owned()));
    }

    #[test]
    fn what_programs_print_and_all_else_is_short() {
        let job = || Some(name_of("mail", "7"));
        let said = line(Level::ERROR, OF_PROGRAMS, fields("oops\x07", &[("stream", "stderr")]), job());
        assert_eq!(said, (Style::Warning, "mail #7: oops\\u{7}".to_owned()));
        let rest = [("storage", "SQLite, file jobs.db"), ("entries", "0"), ("tasks", "a b"), ("revision", "4")];
        let serving = line(Level::INFO, "backfill", fields("serving", &rest), None).1;
        assert_eq!(serving, "serving storage=\"SQLite, file jobs.db\" tasks=\"a b\" revision=4");
        assert_eq!(line(Level::WARN, "backfill", fields("it is late", &[]), None).1, "warning: it is late");
    }
}
