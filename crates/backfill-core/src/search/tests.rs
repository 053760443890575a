//! What is read is what is meant, whatever is written.

use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;

use super::*;
use crate::job::{Job, JobState, Payload, Priority};

fn parse(text: &str) -> Query {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn refused(text: &str) -> String {
    text.parse::<Query>().expect_err(text).to_string()
}

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_900_000_000, 0).unwrap_or_default()
}

fn job() -> Job {
    let payload = r#"{"customer":{"id":4242,"plan":"gold","big":12345678901234567890},"total":100.0,"n":"7","list":[1,{"a":2}],"no":null,"a.b":1}"#;
    let mut job = Job::new(17, "send_mail", Payload::from_trusted(payload.to_owned()), now() - TimeDelta::hours(3));
    (job.queue, job.key) = (Some("account 7".to_owned()), Some("order-17".to_owned()));
    (job.attempts, job.priority) = (3, Priority(-2));
    (job.last_error, job.run_at) = (Some("Connection REFUSED by \"x\"".to_owned()), now() + TimeDelta::minutes(5));
    job.flags = vec!["slow".to_owned()];
    job
}

#[test]
fn each_term_means_what_the_page_says() {
    let job = job();
    for (text, expected) in [
        ("", true),
        ("state:retrying", true),
        ("state:dead,retrying", true),
        ("-state:retrying", false),
        ("task:send_mail", true),
        ("task:send_*", true),
        ("task:a,send_*", true),
        ("-task:send_*", false),
        ("task:\"send_*\"", false),
        ("queue:\"account 7\"", true),
        ("queue:acc*7", true),
        ("queue:*", true),
        ("key:order-*", true),
        ("worker:*", false),
        ("-worker:*", true),
        ("error:refused", true),
        ("error:\"by \\\"x\\\"\"", true),
        ("flag:slow", true),
        ("flag:fast", false),
        ("id:17", true),
        ("id:10..16", false),
        ("17", true),
        ("\"17\"", false),
        ("order-17", true),
        ("send_mail", true),
        ("priority:<0", true),
        ("priority:-2", true),
        ("attempts:>=3", true),
        ("attempts:>3", false),
        ("created:>2h", true),
        ("created:<2h", false),
        ("created:>3h1m", false),
        ("due:<10m", true),
        ("due:<-1s", false),
        ("due:>4m59s", true),
        ("created:<2031-01-01", true),
        ("created:>\"2031-01-01T00:00:00Z\"", false),
        ("payload.customer.id:4242", true),
        ("payload.customer.id:4242.0", true),
        ("payload.customer.id:424", false),
        ("payload.customer.plan:g*d", true),
        ("payload.customer.plan:GOLD", false),
        ("payload.customer.big:12345678901234567890", true),
        ("payload.customer.big:12345678901234567891", false),
        ("payload.total:100", true),
        ("payload.total:>99.5", true),
        ("payload.total:>100", false),
        ("payload.total:>=100", true),
        ("payload.total:1..100", true),
        ("payload.n:7", true),
        ("payload.n:>6", true),
        ("payload.customer.plan:>6", false),
        ("payload.list.0:1", true),
        ("payload.list.1.a:2", true),
        ("payload.list.2:*", false),
        ("payload.customer:*", true),
        ("payload.customer:gold", false),
        ("payload.no:*", false),
        ("-payload.nothing:*", true),
        ("payload.\"a.b\":1", true),
        ("state:retrying task:send_* payload.customer.id:4242 -flag:fast", true),
        ("state:retrying task:send_* payload.customer.id:4243", false),
    ] {
        assert_eq!(parse(text).matches(&job, now()), expected, "{text}");
    }
}

#[test]
fn what_cannot_be_understood_says_why_and_how_it_is_written() {
    for (text, expected) in [
        ("stat:dead", "the search \"stat:dead\" names no field; did you mean \"state\"?"),
        ("state:ded", "did you mean \"dead\"?"),
        ("mail:send", "A name with a colon in it goes in quotes: \"mail:send\""),
        ("priority:high", "must be a number such as 7, >7"),
        ("created:2h", "must be > or < and a length of time"),
        ("due:>2x", "must be > or < and a length of time"),
        ("task:", "has nothing behind the colon"),
        ("task:\"a", "has quotes that are not closed"),
        ("task:\"a\\n\"", "has a \\ in quotes"),
        ("task.x:1", "which only payload.… may have"),
        ("payload.a:>b", "must compare with a number"),
        ("task:a*\"b*\"", "cannot be told apart"),
    ] {
        let told = refused(text);
        assert!(told.contains(expected), "{text}: {told}");
    }
    assert!(refused(&"x ".repeat(MAX_TERMS + 1)).contains("too many terms; a search may have 20"));
    assert_eq!(parse(&"x ".repeat(MAX_TERMS)).terms().len(), MAX_TERMS);
    assert!(refused(&"x".repeat(MAX_BYTES + 1)).contains("has 2049 bytes; a search may have 2048"));
    assert_eq!(parse(&"x".repeat(MAX_BYTES)).terms().len(), 1);
}

#[test]
fn a_storage_can_ask_for_what_narrows_a_search() {
    let query = parse("state:dead,ready -state:ready task:a queue:q key:k id:>3 id:<=9 -id:5");
    assert_eq!(query.states(), [JobState::Dead]);
    assert_eq!((query.task(), query.queue(), query.key()), (Some("a"), Some("q"), Some("k")));
    assert_eq!(query.ids(), Range { least: Some(4), most: Some(9) });
    let wide = parse("task:a,b queue:q* -key:k");
    assert_eq!((wide.task(), wide.queue(), wide.key(), wide.states().len()), (None, None, None, 5));
}

#[test]
fn pages_of_any_order_meet_each_job_once() {
    let jobs: Vec<Job> = (1..=23)
        .map(|id| {
            let mut job = job();
            (job.id, job.priority, job.run_at) = (id.into(), Priority((id % 3) as i16), now());
            job
        })
        .collect();
    for order in Order::ALL {
        for limit in [1, 4, 23, 24] {
            let mut search = Search::new(parse("task:send_mail")).order(order).limit(limit).without_payloads();
            let mut seen = Vec::new();
            loop {
                let found = search.among(&jobs, now());
                assert!(found.jobs.len() <= limit as usize);
                seen.extend(found.jobs.iter().map(|job| job.id));
                let Some(next) = found.next else { break };
                let text = next.to_string();
                search = search.after(Some(text.parse().expect("a place")));
            }
            let mut sorted = seen.clone();
            sorted.sort_unstable();
            sorted.dedup();
            assert_eq!((seen.len(), sorted.len()), (23, 23), "{order:?} by {limit}");
        }
    }
    let wrong = Search::new(Query::all()).order(Order::Claim).after(Some(Place::Id(7.into())));
    assert!(wrong.check().expect_err("a place of another order").to_string().contains("take it from the page before"));
}

/// Any text: blanks, quotes, stars, colons, and what no keyboard has.
fn any_text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z_*]{1,6}", "[ -~]{1,10}", "\\PC{1,6}"].prop_map(|text| text.replace('\0', ""))
}

fn any_pattern() -> impl Strategy<Value = Pattern> {
    any_text().prop_flat_map(|text| {
        let like = Pattern::of(text.clone());
        prop_oneof![Just(Pattern::Exact(text)), Just(like)]
    })
}

fn any_test() -> impl Strategy<Value = Test> {
    let range = (any::<Option<i16>>(), any::<i16>())
        .prop_map(|(least, most)| Range { least: least.map(i64::from), most: Some(most.into()) });
    let times = (any::<bool>(), -9_000_000_i64..9_000_000).prop_map(|(is_after, seconds)| {
        let when = Some(When::FromNow(TimeDelta::seconds(seconds)));
        if is_after { TimeRange { after: when, before: None } } else { TimeRange { after: None, before: when } }
    });
    let value = prop_oneof![
        any_pattern().prop_map(ValueTest::Is),
        (any::<i32>(), any::<bool>()).prop_map(|(number, inclusive)| ValueTest::Number {
            least: Some(f64::from(number) / 8.0),
            most: None,
            inclusive
        }),
    ];
    prop_oneof![
        prop::sample::subsequence(JobState::ALL.to_vec(), 1..5).prop_map(Test::State),
        prop::collection::vec(any_pattern(), 1..3).prop_map(Test::Task),
        any_pattern().prop_map(Test::Queue),
        any_pattern().prop_map(Test::Key),
        any_pattern().prop_map(Test::Name),
        any_text().prop_map(Test::Error),
        any_text().prop_map(Test::Flag),
        range.clone().prop_map(Test::Id),
        range.prop_map(Test::Priority),
        times.clone().prop_map(Test::Created),
        times.prop_map(Test::Due),
        (prop::collection::vec(any_text(), 0..3), value).prop_map(|(path, test)| Test::Payload { path, test }),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(terms in prop::collection::vec((any::<bool>(), any_test()), 0..5)) {
        let query = Query { terms: terms.into_iter().map(|(negated, test)| Term { negated, test }).collect() };
        let text = query.to_string();
        prop_assume!(text.len() <= MAX_BYTES);
        prop_assert_eq!(parse(&text), query, "{}", text);
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "\\PC{0,60}") {
        let _ = text.parse::<Query>();
        let _ = text.parse::<Place>();
    }

    #[test]
    fn a_star_is_any_text(before in "[a-b]{0,4}", middle in "[a-b]{0,4}", after in "[a-b]{0,4}") {
        let text = format!("{before}{middle}{after}");
        let pattern = Pattern::of(format!("{before}*{after}"));
        prop_assert!(pattern.matches(&text));
        prop_assert!(Pattern::of("*").matches(&text));
    }
}
