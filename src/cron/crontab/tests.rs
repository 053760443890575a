//! Crontabs that are read, and those that are refused with the place and the reason.

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
    assert!(told[0].starts_with("line 2, column 1: \"@dayly\" is no time: five or six fields are, or one of @yearly"));
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
