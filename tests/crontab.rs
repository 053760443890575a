//! Crontab text, ours against Node's: what Node understands we understand alike, and what it refuses we refuse.

#![expect(clippy::float_cmp, reason = "whole numbers, as JavaScript has them")]

mod support;

use backfill::cron::{Crontab, Dialect};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::{Value, json};
use support::node;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

/// Lines that are generated; each is tried at as many times as `TIMES`.
const LINES: usize = 30_000;
const TIMES: usize = 12;

#[derive(Deserialize, Debug)]
#[serde(untagged)]
enum Answer {
    Refused { error: String },
    Items(Vec<Item>),
}

#[derive(Deserialize, Debug)]
#[serde(rename_all = "camelCase")]
struct Item {
    identifier: String,
    task: String,
    options: ItemOptions,
    payload: Value,
    due: Vec<bool>,
}

#[derive(Deserialize, Debug)]
#[serde(rename_all = "camelCase")]
struct ItemOptions {
    backfill_period: f64,
    max_attempts: Option<f64>,
    queue_name: Option<String>,
    job_key: Option<String>,
    job_key_mode: Option<String>,
    priority: Option<f64>,
}

fn pick<'a>(rng: &mut fastrand::Rng, of: &[&'a str]) -> &'a str {
    of[rng.usize(..of.len())]
}

fn field(rng: &mut fastrand::Rng, min: u32, max: u32) -> String {
    let parts = if rng.u8(..4) == 0 { rng.usize(2..5) } else { 1 };
    let part = |rng: &mut fastrand::Rng| {
        // Now and then one beyond the limits, in either direction.
        let number = |rng: &mut fastrand::Rng| {
            let (below, above) = (u32::from(rng.u8(..40) == 0), u32::from(rng.u8(..15) == 0));
            rng.u32(min.saturating_sub(below)..=max + above)
        };
        match rng.u8(..20) {
            0..=6 => "*".to_owned(),
            7..=9 => {
                let least = u32::from(rng.u8(..20) != 0);
                format!("*/{}", rng.u32(least..max + 3))
            }
            10..=14 => number(rng).to_string(),
            15..=17 => {
                let (a, b) = (number(rng), number(rng));
                // Mostly in order.
                if rng.u8(..8) == 0 { format!("{a}-{b}") } else { format!("{}-{}", a.min(b), a.max(b)) }
            }
            18 => format!("{:02}", number(rng)),
            _ => pick(
                rng,
                &["", "*/", "1-", "-", "1-2-3", "1-5/2", "*/*", "**", "/2", "MON", "007", "99999999999999999999"],
            )
            .to_owned(),
        }
    };
    (0..parts).map(|_| part(rng)).collect::<Vec<_>>().join(",")
}

fn line(rng: &mut fastrand::Rng) -> String {
    let mut line = pick(rng, &["", "", "", " ", "\t "]).to_owned();
    for (min, max) in [(0, 59), (0, 23), (1, 31), (1, 12), (0, 7)] {
        line += &field(rng, min, max);
        // And now and then white space that is one to some.
        let odd = ["\u{feff}", "\u{85}", "\u{2028}", "\u{a0}", "\u{3000}", "\r", "\u{b}"];
        line += if rng.u8(..60) == 0 { pick(rng, &odd) } else { pick(rng, &[" ", " ", " ", "  ", "\t"]) };
    }
    line += pick(rng, &["task", "task", "ns:task", "a/b-c", "_x", "Task9", "9x", "é", "", "a.b"]);
    if rng.bool() {
        line += " ?";
        let options: Vec<String> = (0..if rng.u8(..20) == 0 { 0 } else { rng.usize(1..4) })
            .map(|_| match rng.u8(..16) {
                0 => format!("id={}", pick(rng, &["x", "x-1", "1x", "", "a_b", "a%5Fb"])),
                1..=2 => format!("fill={}", pick(rng, &["1d", "4w3d2h1m30s", "10m", "1", "d", "1d2", "0s", "1x", ""])),
                3..=4 => format!("max={}", pick(rng, &["1", "25", "32767", "x", "-1", "1.5", "007"])),
                5..=6 => format!("queue={}", pick(rng, &["q", "q:1", "a b", "q.1", "", "Q-_:9", "a+b"])),
                7..=9 => format!(
                    "jobKey={}",
                    pick(rng, &["k", "a%20b", "a+b", "%F0%9F%A6%80", "a=b", "%zz", "k%26l", "%2B"])
                ),
                10..=11 => {
                    format!("jobKeyMode={}", pick(rng, &["replace", "preserve_run_at", "unsafe_dedupe", "Replace", ""]))
                }
                12..=13 => format!("priority={}", pick(rng, &["0", "-5", "7", "+3", "x", "--1", "1e3"])),
                14 => pick(rng, &["nope=1", "ID=x", "max", "="]).to_owned(),
                _ => "jobKey=k&jobKeyMode=preserve_run_at".to_owned(),
            })
            .collect();
        line += &options.join("&");
    }
    if rng.u8(..3) == 0 {
        line += " ";
        line += pick(
            rng,
            &[
                "{}",
                "{a: 1}",
                "{\"a\": [1, 2.5, null, true]}",
                "{a: 'it''s'}",
                "{a: 'x', }",
                "{a: 0xff, b: +1, c: .5, d: Infinity}",
                "{a: /* c */ 1}",
                "{a: 1} // c",
                "{a: {b: 'c'}}",
                "[1]",
                "{",
                "# c",
                "{a: \"\\u00e9\"}",
                "{'a b': 1}",
                "{a:1}{b:2}",
                "{a: '\u{2028}'}",
                "{a:\u{2028}1}",
                "{a:\u{feff}1}",
                "{a:\u{85}1}",
                "{a: 'b\u{2029}c'} ",
            ],
        );
    }
    line += pick(rng, &["", "", "", " ", "\t", "", "", "", "", "", "", "", "\u{feff}", "\u{85}", "\u{2028}", "\r"]);
    line
}

/// Lines that Node's parser takes, and its scheduler then fails on, again and again. We refuse them.
fn node_would_fail_later(item: &Item) -> bool {
    let smallint = |number: Option<f64>| number.is_none_or(|number| number.abs() <= 32767.0);
    item.options.max_attempts == Some(0.0)
        || !smallint(item.options.max_attempts)
        || !smallint(item.options.priority)
        || item.options.job_key.as_deref() == Some("")
}

#[cfg_attr(not(feature = "server-tests"), ignore = "needs Node: ./scripts/test")]
#[tokio::test]
async fn tens_of_thousands_of_lines_mean_what_they_mean_to_node() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("SEED={seed} repeats this run");
    let mut rng = fastrand::Rng::with_seed(seed);
    let cases: Vec<(String, Vec<DateTime<Utc>>)> = (0..LINES)
        .map(|_| {
            let times =
                (0..TIMES).map(|_| DateTime::from_timestamp(rng.i64(0..4_102_444_800) / 60 * 60, 0).expect("a time"));
            let times = times.collect();
            (line(&mut rng), times)
        })
        .collect();

    let mut child = node::start("crontab.mjs", &[]);
    let mut input = child.stdin.take().expect("stdin");
    let requests: Vec<String> = cases
        .iter()
        .map(|(line, times)| {
            let times: Vec<i64> = times.iter().map(DateTime::timestamp_millis).collect();
            json!({ "line": line, "times": times }).to_string()
        })
        .collect();
    let writing = tokio::spawn(async move {
        for request in requests {
            input.write_all(request.as_bytes()).await.expect("write");
            input.write_all(b"\n").await.expect("write");
        }
    });
    let mut answers = BufReader::new(child.stdout.take().expect("stdout")).lines();
    let (mut understood, mut refused) = (0, 0);
    for (line, times) in &cases {
        let answer = answers.next_line().await.expect("read").expect("an answer");
        let theirs: Answer = serde_json::from_str(&answer).expect("an answer");
        let ours = line.parse::<Crontab>();
        match theirs {
            Answer::Refused { error } => {
                refused += 1;
                assert!(ours.is_err(), "Node refuses {line:?}: {error}; we made {ours:?}");
            }
            Answer::Items(items) if items.iter().any(node_would_fail_later) => assert!(ours.is_err(), "{line:?}"),
            Answer::Items(items) => {
                understood += 1;
                let ours =
                    ours.unwrap_or_else(|error| panic!("Node understands {line:?} as {items:?}; we say {error}"));
                assert_eq!(ours.entries().len(), items.len(), "{line:?}");
                let extended = Crontab::parse(line, Dialect::Extended);
                assert_eq!(extended.as_ref().ok(), Some(&ours), "the extended dialect knows every line: {line:?}");
                for (entry, item) in ours.entries().iter().zip(items) {
                    assert_eq!((&entry.identifier, &entry.task), (&item.identifier, &item.task), "{line:?}");
                    assert_eq!(entry.backfill.as_secs_f64() * 1000.0, item.options.backfill_period, "{line:?}");
                    assert_eq!(entry.max_attempts.map(f64::from), item.options.max_attempts, "{line:?}");
                    assert_eq!(
                        (&entry.queue, &entry.key),
                        (&item.options.queue_name, &item.options.job_key),
                        "{line:?}"
                    );
                    assert_eq!(f64::from(entry.priority.0), item.options.priority.unwrap_or(0.0), "{line:?}");
                    let mode = item.options.job_key_mode.as_deref().unwrap_or("replace");
                    assert_eq!(entry.key_mode.as_str(), mode, "{line:?}");
                    let payload: Value = entry.payload.decode().expect("JSON");
                    assert_eq!(payload, item.payload, "{line:?}");
                    let due: Vec<bool> = times.iter().map(|time| entry.schedule.matches(*time)).collect();
                    assert_eq!(due, item.due, "{line:?} at {times:?}");
                }
            }
        }
    }
    writing.await.expect("written");
    // Neither side of the comparison may be empty.
    assert!(understood > LINES / 20 && refused > LINES / 20, "{understood} understood, {refused} refused");
    println!("{understood} lines understood alike, {refused} refused by both");
}

/// A field of the extended dialect, and the numbers that it means, in Graphile's.
fn extended_field(rng: &mut fastrand::Rng, min: u32, max: u32, names: &[&str]) -> (String, String) {
    let (mut text, mut numbers) = (Vec::new(), Vec::new());
    for _ in 0..rng.usize(1..4) {
        let write = |number: u32, rng: &mut fastrand::Rng| match names.get((number - min) as usize) {
            Some(name) if rng.bool() => {
                if rng.bool() {
                    name.to_lowercase()
                } else {
                    (*name).to_owned()
                }
            }
            _ => number.to_string(),
        };
        let (from, to) = (rng.u32(min..max), rng.u32(min..=max));
        let (from, to) = if from < to { (from, to) } else { (from.min(to), max) };
        let step = rng.u32(1..=max);
        let every = |from: u32, to: u32, step: u32| (from..=to).step_by(step as usize);
        match rng.u8(..5) {
            0 => {
                text.push(write(from, rng));
                numbers.push(from);
            }
            1 => {
                text.push(format!("{}-{}", write(from, rng), write(to, rng)));
                numbers.extend(every(from, to, 1));
            }
            2 => {
                text.push(format!("{}-{}/{step}", write(from, rng), write(to, rng)));
                numbers.extend(every(from, to, step));
            }
            3 => {
                text.push(format!("{}/{step}", write(from, rng)));
                numbers.extend(every(from, max, step));
            }
            _ => {
                text.push(format!("*/{step}"));
                numbers.extend(every(min, max, step));
            }
        }
    }
    let numbers: Vec<String> = numbers.iter().map(u32::to_string).collect();
    (text.join(","), numbers.join(","))
}

#[test]
fn whatever_the_extended_dialect_adds_is_due_as_its_numbers_are() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("SEED={seed} repeats this run");
    let mut rng = fastrand::Rng::with_seed(seed);
    let months = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
    let days = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];
    for _ in 0..LINES {
        let fields: [(u32, u32, &[&str]); 5] =
            [(0, 59, &[]), (0, 23, &[]), (1, 31, &[]), (1, 12, &months), (0, 6, &days)];
        let (text, plain): (Vec<String>, Vec<String>) =
            fields.into_iter().map(|(min, max, names)| extended_field(&mut rng, min, max, names)).unzip();
        let (text, plain) = (format!("{} task", text.join(" ")), format!("{} task", plain.join(" ")));
        let extended = Crontab::parse(&text, Dialect::Extended).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(extended, plain.parse().expect("numbers"), "{text} and {plain}");
    }
    for (short, long) in
        [("@hourly", "0 * * * *"), ("@daily", "0 0 * * *"), ("@weekly", "0 0 * * 0"), ("@yearly", "0 0 1 1 *")]
    {
        let extended = Crontab::parse(&format!("{short} task"), Dialect::Extended).expect("a short form");
        assert_eq!(extended, format!("{long} task").parse().expect("numbers"));
    }
}
