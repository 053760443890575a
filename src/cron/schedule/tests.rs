//! Schedules whose moments are known.

use super::*;
use chrono::Timelike;
use proptest::prelude::*;

fn schedule(text: &str) -> Schedule {
    text.parse().unwrap_or_else(|error| panic!("{error}"))
}

fn extended(text: &str) -> Schedule {
    Schedule::parse(text, Dialect::Extended).unwrap_or_else(|error| panic!("{error}"))
}

fn time(text: &str) -> DateTime<Utc> {
    text.parse().unwrap_or_else(|error| panic!("{error}"))
}

/// The due moments from one time up to and including another.
fn due(schedule: &Schedule, from: &str, to: &str) -> Vec<String> {
    let first = schedule.next_after(time(from) - TimeDelta::nanoseconds(1));
    std::iter::successors(first, |last| schedule.next_after(*last))
        .take_while(|due| *due <= time(to))
        .map(|due| due.format("%d %H:%M:%S").to_string())
        .collect()
}

#[test]
fn next_due_times_are_found_across_days_months_and_leap_years() {
    let cases = [
        ("* * * * *", "2026-11-21T10:00:00Z", "2026-11-21T10:01:00Z"),
        ("* * * * *", "2026-11-21T10:00:59.999Z", "2026-11-21T10:01:00Z"),
        ("0 4 * * *", "2026-11-21T04:00:00Z", "2026-11-22T04:00:00Z"),
        ("30 23 31 12 *", "2026-12-31T23:30:00Z", "2027-12-31T23:30:00Z"),
        ("0 0 29 2 *", "2096-03-01T00:00:00Z", "2104-02-29T00:00:00Z"),
        ("0 0 * * 7", "2026-11-21T00:00:00Z", "2026-11-22T00:00:00Z"),
        ("0 0 13 * 5", "2026-11-01T00:00:00Z", "2026-11-06T00:00:00Z"),
        ("0 0 */5 * *", "2026-11-26T00:00:00Z", "2026-12-01T00:00:00Z"),
    ];
    for (text, after, due) in cases {
        assert_eq!(schedule(text).next_after(time(after)), Some(time(due)), "{text} after {after}");
    }
    assert_eq!(schedule("0 0 31 2 *").next_after(time("2026-01-01T00:00:00Z")), None);
    assert_eq!(schedule("* * * * *").next_after(DateTime::<Utc>::MAX_UTC), None);
}

#[test]
fn the_extended_dialect_has_seconds_and_short_forms() {
    let twice_a_minute = extended("*/30 * * * * *");
    assert_eq!(
        due(&twice_a_minute, "2026-11-21T10:00:00Z", "2026-11-21T10:01:00Z"),
        ["21 10:00:00", "21 10:00:30", "21 10:01:00"]
    );
    assert_eq!(twice_a_minute.to_string(), "0,30 * * * * *");
    assert!(twice_a_minute.matches(time("2026-11-21T10:00:30.5Z")));
    assert!(!twice_a_minute.matches(time("2026-11-21T10:00:31Z")));
    for (short, long) in [
        ("@yearly", "0 0 1 1 *"),
        ("@annually", "0 0 1 1 *"),
        ("@monthly", "0 0 1 * *"),
        ("@weekly", "0 0 * * 0"),
        ("@daily", "0 0 * * *"),
        ("@midnight", "0 0 * * *"),
        ("@Hourly", "0 * * * *"),
    ] {
        assert_eq!(extended(short), schedule(long), "{short}");
    }
    for wrong in ["@reboot", "* * * *", "* * * * * * *", "60 * * * * *"] {
        assert!(Schedule::parse(wrong, Dialect::Extended).is_err(), "{wrong}");
    }
    for only_extended in ["@daily", "0 * * * * *"] {
        assert!(Schedule::parse(only_extended, Dialect::Graphile).is_err(), "{only_extended}");
    }
}

#[test]
fn expressions_of_the_cron_crate_and_closures_are_schedules() {
    let expression = Schedule::expression("0 30 9,12 * * Mon-Fri").unwrap();
    assert_eq!(
        due(&expression, "2026-11-20T00:00:00Z", "2026-11-23T10:00:00Z"),
        ["20 09:30:00", "20 12:30:00", "23 09:30:00"]
    );
    assert!(expression.matches(time("2026-11-20T09:30:00.7Z")) && !expression.matches(time("2026-11-20T09:31:00Z")));
    let error = Schedule::expression("every day").unwrap_err().to_string();
    assert!(error.contains("\"every day\" is no cron expression"), "{error}");

    let closure = Schedule::when(|minute| minute.minute() == 7 && minute.second() == 0);
    assert_eq!(due(&closure, "2026-11-20T00:07:00Z", "2026-11-20T01:59:00Z"), ["20 00:07:00", "20 01:07:00"]);
    assert!(closure.matches(time("2026-11-20T00:07:59Z")));
    // It is asked for every minute of a year. Half a million messages would take most of the time of all tests.
    let panics = Schedule::when(|_| std::panic::resume_unwind(Box::new("no")));
    assert_eq!(panics.next_after(time("2026-11-20T00:00:00Z")), None);
    assert!(closure == closure.clone() && closure != Schedule::when(|_| true));
}

#[cfg(feature = "time-zones")]
mod zones {
    use super::*;

    fn berlin(text: &str) -> Schedule {
        extended(text).in_time_zone("Europe/Berlin").unwrap()
    }

    #[test]
    fn fields_are_read_in_the_zone() {
        let schedule = berlin("0 9 * * MON-FRI");
        assert_eq!(schedule.to_string(), "0 9 * * 1,2,3,4,5 Europe/Berlin");
        assert_eq!(due(&schedule, "2026-07-01T00:00:00Z", "2026-07-01T23:00:00Z"), ["01 07:00:00"]);
        assert_eq!(due(&schedule, "2026-12-01T00:00:00Z", "2026-12-01T23:00:00Z"), ["01 08:00:00"]);
        assert!(schedule.matches(time("2026-07-01T07:00:30Z")) && !schedule.matches(time("2026-07-01T09:00:00Z")));
        let error = extended("@daily").in_time_zone("Europe/Berln").unwrap_err().to_string();
        assert!(error.contains("\"Europe/Berln\" is no time zone"), "{error}");
        assert!(error.ends_with("did you mean \"Europe/Berlin\"?"), "{error}");
    }

    /// On 2026-03-29 the clocks of Berlin went from 02:00 to 03:00, which was 01:00 UTC.
    #[test]
    fn a_time_of_day_that_is_skipped_is_due_when_the_clocks_have_gone_forward() {
        for text in ["30 2 * * *", "0,15,30 2 * * *", "0 2 * * *"] {
            let due = due(&berlin(text), "2026-03-28T23:00:00Z", "2026-03-29T20:00:00Z");
            assert_eq!(due, ["29 01:00:00"], "{text}");
        }
        assert_eq!(
            due(&berlin("0 * * * *"), "2026-03-29T00:00:00Z", "2026-03-29T02:00:00Z"),
            ["29 00:00:00", "29 01:00:00", "29 02:00:00"]
        );
    }

    /// On 2026-10-25 they went back from 03:00 to 02:00, which was 01:00 UTC.
    #[test]
    fn a_time_of_day_that_comes_twice_is_due_once_and_a_rhythm_goes_on() {
        assert_eq!(due(&berlin("30 2 * * *"), "2026-10-24T23:00:00Z", "2026-10-25T20:00:00Z"), ["25 00:30:00"]);
        assert_eq!(
            due(&berlin("*/30 * * * *"), "2026-10-25T00:00:00Z", "2026-10-25T02:00:00Z"),
            ["25 00:00:00", "25 00:30:00", "25 01:00:00", "25 01:30:00", "25 02:00:00"]
        );
    }

    /// Lord Howe Island's clocks change by half an hour, and Samoa once left out a whole day.
    #[test]
    fn odd_changes_of_the_clock_are_survived() {
        let howe = extended("*/10 * * * *").in_time_zone("Australia/Lord_Howe").unwrap();
        let minutes = due(&howe, "2026-04-04T14:00:00Z", "2026-04-04T16:00:00Z");
        assert_eq!(minutes.len(), 13, "{minutes:?}");
        let samoa = extended("0 10 30 12 *").in_time_zone("Pacific/Apia").unwrap();
        assert_eq!(due(&samoa, "2011-12-29T00:00:00Z", "2011-12-31T23:00:00Z"), ["30 10:00:00"]);
    }

    proptest! {
        #[test]
        fn the_next_due_moment_is_later_and_matches(
            minute in 0..60_u32, hour in prop_oneof![Just(None), (0..24_u32).prop_map(Some)], from in 1_600_000_000..2_000_000_000_i64,
            zone in prop_oneof![Just("Europe/Berlin"), Just("America/New_York"), Just("Australia/Lord_Howe"), Just("Asia/Kathmandu")],
        ) {
            let hour = hour.map_or_else(|| "*".to_owned(), |hour| hour.to_string());
            let schedule = extended(&format!("{minute} {hour} * * *")).in_time_zone(zone).unwrap();
            let from = DateTime::from_timestamp(from, 0).expect("a time");
            let due = schedule.next_after(from).expect("it is due");
            prop_assert!(due > from && due - from <= TimeDelta::hours(25), "{} after {}", due, from);
            prop_assert!(schedule.matches(due));
            prop_assert_eq!(schedule.next_after(due - TimeDelta::nanoseconds(1)), Some(due));
        }
    }
}

#[cfg(feature = "time-zones")]
#[test]
fn expressions_follow_the_same_rules_when_clocks_change() {
    let berlin = |text| Schedule::expression(text).unwrap().in_time_zone("Europe/Berlin").unwrap();
    let back = ("2026-10-25T00:00:00Z", "2026-10-25T02:00:00Z");
    assert_eq!(
        due(&berlin("0 */30 * * * *"), back.0, back.1),
        ["25 00:00:00", "25 00:30:00", "25 01:00:00", "25 01:30:00", "25 02:00:00"],
        "a rhythm goes through both passes"
    );
    assert_eq!(due(&berlin("0 30 2 * * *"), back.0, back.1), ["25 00:30:00"], "a time of day comes once");
    let late = time("2026-10-25T01:10:00Z");
    assert_eq!(berlin("0 */30 * * * *").next_after(late), Some(time("2026-10-25T01:30:00Z")));
    assert_eq!(berlin("0 30 2 * * *").next_after(late), Some(time("2026-10-26T01:30:00Z")));
    let forward = ("2026-03-29T00:00:00Z", "2026-03-29T02:00:00Z");
    assert_eq!(due(&berlin("0 30 2 * * *"), forward.0, forward.1), ["29 01:00:00"], "a skipped time is made up for");
    assert_eq!(
        due(&berlin("0 */30 * * * *"), forward.0, forward.1),
        ["29 00:00:00", "29 00:30:00", "29 01:00:00", "29 01:30:00", "29 02:00:00"]
    );
}

#[cfg(feature = "time-zones")]
#[test]
fn clocks_that_change_by_two_hours_lose_no_moment_of_a_rhythm() {
    let troll = extended("*/30 * * * *").in_time_zone("Antarctica/Troll").unwrap();
    assert_eq!(
        due(&troll, "2026-10-24T23:00:00Z", "2026-10-25T02:00:00Z"),
        ["24 23:00:00", "24 23:30:00", "25 00:00:00", "25 00:30:00", "25 01:00:00", "25 01:30:00", "25 02:00:00"]
    );
}

#[cfg(not(feature = "time-zones"))]
#[test]
fn a_time_zone_without_the_feature_says_which_one_is_missing() {
    let error = extended("@daily").in_time_zone("Europe/Berlin").unwrap_err().to_string();
    assert!(error.contains("needs the feature time-zones"), "{error}");
    assert_eq!(extended("@daily").in_time_zone("UTC").unwrap(), extended("@daily"));
}

proptest! {
    #[test]
    fn the_next_due_time_is_the_first_minute_that_matches(
        minute in 0..60_u32, hour in 0..24_u32, step in 1..30_u32, day in 0..8_u32, from in 0..4_000_000_000_i64,
    ) {
        let schedule = schedule(&format!("{minute},*/{step} {hour} */{step} * {day}"));
        let from = DateTime::from_timestamp(from, 0).expect("a time");
        let due = schedule.next_after(from).expect("it is due");
        prop_assert!(due > from && schedule.matches(due) && due.second() == 0);
        let mut earlier = due - TimeDelta::minutes(1);
        while earlier > from {
            prop_assert!(!schedule.matches(earlier), "{earlier} comes before {due}");
            earlier -= TimeDelta::minutes(1);
        }
    }

    #[test]
    fn what_is_shown_is_read_back_as_the_same(
        a in 0..60_u32, b in 0..24_u32, c in 1..32_u32, d in 1..13_u32, e in 0..8_u32, step in 1..40_u32,
    ) {
        let schedule = schedule(&format!("{a},*/{step} {b} {c},*/{step} {d} {e}"));
        prop_assert_eq!(schedule.to_string().parse::<Schedule>().expect("it is read back"), schedule);
    }

    #[test]
    fn no_text_makes_it_panic(text in "[0-9*/, @A-Za-z-]{0,40}|.{0,40}") {
        let _ = text.parse::<Schedule>();
        let _ = Schedule::parse(&text, Dialect::Extended);
        let _ = Schedule::expression(&text);
    }
}
