//! What the module's page says, rule by rule, with a clock that only the test moves.

mod rig;

use super::*;
use rig::*;

#[test]
fn a_worker_looks_carefully_until_a_look_was_cheap() {
    let rig = Rig::new();
    let looks = rig.looks();
    assert_eq!((looks.plain, looks.plain_rows, looks.are_simple()), (None, Some(FIRST_ROWS), false));
    rig.claim(vec![], &course(MS / 2, MS / 2));
    let looks = rig.looks();
    assert_eq!((looks.plain, looks.plain_rows, looks.are_simple()), (None, None, true));
    // What it takes to lock each job is no walk.
    let many = (0..10_000).map(|id| job(id, None)).collect();
    rig.claim(many, &course(MS * 25, MS / 2));
    assert!(rig.looks().are_simple());
}

#[test]
fn after_a_dear_look_the_next_ones_begin_where_something_was_found() {
    let rig = Rig::assured();
    rig.claim(vec![job(5, None)], &course(MS * 50, MS / 2));
    assert_eq!(rig.looks().plain_rows, Some(FIRST_ROWS), "the next one is bounded");
    rig.claim(vec![job(5, None)], &course(MS * 50, MS / 2));
    let expected = Cursor { position: (0, at(5)), since: at(0) - SLACK };
    assert_eq!(rig.looks().plain, Some(expected));
    // It does not go back for something urgent and new, which is found before it.
    rig.claim(vec![job(3, None)], &course(MS, MS / 2));
    assert_eq!(rig.looks().plain, Some(expected));
    rig.claim(vec![job(9, None)], &course(MS, MS / 2));
    assert_eq!(rig.looks().plain.map(|cursor| cursor.position), Some((0, at(9))));
}

#[test]
fn a_look_that_ends_for_its_rows_goes_on_at_once_and_sees_more_up_to_a_bound() {
    let rig = Rig::new();
    let mut seen = Vec::new();
    for second in 1..6 {
        let cut = Course { plain_end: Some((0, at(second))), ..course(MS * 5, MS / 2) };
        let (looks, again) = rig.claim(vec![], &cut);
        assert_eq!(again, Some(Duration::ZERO));
        assert_eq!(looks.plain.map(|cursor| cursor.position), (second > 1).then(|| (0, at(second - 1))));
        seen.push(looks.plain_rows);
    }
    assert_eq!(seen, [1_000, 4_000, 16_000, MAX_ROWS, MAX_ROWS].map(Some));
    // Where as many are found as were asked for, there is no need to look far.
    rig.claim(vec![job(7, None)], &course(MS * 5, MS / 2));
    assert_eq!(rig.looks().plain_rows, Some(FIRST_ROWS));
}

#[test]
fn passes_take_no_more_than_a_twentieth_of_the_time() {
    let mut rig = Rig::new();
    let long = MS * 500;
    for pass in 0..3 {
        let mut spent = Duration::ZERO;
        for second in 1..5 {
            let cut = Course { plain_end: Some((0, at(second))), ..course(long, MS / 2) };
            assert_eq!(rig.claim(vec![], &cut).1, Some(Duration::ZERO), "pass {pass}");
            spent += long;
        }
        let end = Course { plain_end: Some(end_of_line()), ..course(long, MS / 2) };
        let (_, pause) = rig.claim(vec![], &end);
        spent += long;
        assert_eq!(pause, Some(spent * PAUSE), "pass {pass}");
        // Until then looks begin at the end, and what they take does not put the next pass off.
        let nothing = Course { plain_end: Some(end_of_line()), ..course(MS / 10, MS / 10) };
        rig.now += (spent * PAUSE).saturating_sub(MS);
        let (looks, _) = rig.claim(vec![], &nothing);
        assert_eq!(looks.plain.map(|cursor| cursor.position), Some(end_of_line()));
        rig.now += spent * PAUSE;
        assert_eq!(rig.looks().plain, None, "a pass begins at the start");
        rig.now += MS;
    }
}

#[test]
fn a_line_that_is_walked_within_moments_needs_no_cursor() {
    let rig = Rig::new();
    let end = Course { plain_end: Some(end_of_line()), queue_end: Some(end_of_line()), ..course(MS * 2, MS * 2) };
    assert_eq!(rig.claim(vec![], &end).1, None);
    assert!(rig.looks().are_simple());
}

#[test]
fn where_something_is_always_found_the_start_is_looked_at_again_all_the_same() {
    let mut rig = Rig::new();
    rig.claim(vec![job(5, None)], &course(MS * 100, MS / 2));
    rig.claim(vec![job(6, None)], &course(MS, MS / 2));
    for second in 7..10 {
        assert!(rig.looks().plain.is_some());
        rig.claim(vec![job(second, None)], &course(MS, MS / 2));
    }
    // What cannot be taken again stands in the way: then the way is gone to its end first.
    rig.claim(vec![], &Course { plain_end: Some((0, at(20))), ..course(MS * 100, MS / 2) });
    rig.now += (MS * 110) * PAUSE;
    assert!(rig.looks().plain.is_some());
    rig.claim(vec![job(30, None)], &course(MS, MS / 2));
    rig.now += (MS * 210) * PAUSE;
    assert_eq!(rig.looks().plain, None, "what was freed there is found");
}

#[test]
fn where_a_long_line_of_held_queues_stands_no_look_is_unbounded_when_a_pass_begins_anew() {
    let mut rig = Rig::assured();
    let cut = Course { queue_end: Some((0, at(1))), seen_queues: vec![1], ..course(MS / 2, MS * 30) };
    rig.claim(vec![], &cut);
    let end = Course { queue_end: Some(end_of_line()), ..course(MS / 2, MS * 30) };
    let (_, pause) = rig.claim(vec![], &end);
    for _ in 0..3 {
        rig.now += pause.expect("a pass is to come");
        let looks = rig.looks();
        assert_eq!((looks.queued, looks.plain_rows, looks.are_simple()), (None, None, false));
        // It may be walked by one look.
        rig.claim(vec![], &end);
    }
    rig.now += pause.expect("a pass is to come");
    let short = Course { queue_end: Some(end_of_line()), ..course(MS / 2, MS / 2) };
    rig.claim(vec![], &short);
    assert!(rig.looks().are_simple());
}

#[test]
fn queues_of_which_something_was_passed_by_are_carried_along() {
    let mut rig = Rig::new();
    let cut = |second, queues: &[i32]| Course {
        queue_end: Some((0, at(second))),
        seen_queues: queues.to_vec(),
        ..course(MS / 2, MS * 30)
    };
    assert_eq!(rig.claim(vec![], &cut(1, &[3, 1])).1, Some(Duration::ZERO));
    assert_eq!(rig.claim(vec![], &cut(2, &[2, 3])).1, Some(Duration::ZERO));
    let looks = rig.looks();
    assert_eq!(looks.queued, Some(Cursor { position: (0, at(2)), since: at(0) - SLACK }));
    assert_eq!(*looks.passed, [1, 2, 3]);
    let (_, pause) = rig.claim(vec![], &Course { queue_end: Some(end_of_line()), ..course(MS / 2, MS * 30) });
    assert_eq!(pause, Some(MS * 90 * PAUSE));
    rig.now += MS * 90 * PAUSE;
    let looks = rig.looks();
    assert_eq!((looks.queued, looks.passed.len()), (None, 0), "the next pass looks at all of them");
}

#[test]
fn a_pass_ends_before_it_carries_too_many_queues() {
    let rig = Rig::new();
    let many = i32::try_from(MAX_PASSED).expect("it fits");
    let cut = Course { queue_end: Some((0, at(1))), seen_queues: (0..=many).collect(), ..course(MS / 2, MS * 30) };
    let (_, pause) = rig.claim(vec![], &cut);
    assert_eq!(pause, Some(MS * 30 * PAUSE));
    assert!(rig.looks().passed.is_empty());
}

#[test]
fn a_look_for_queues_that_went_as_far_as_the_other_one_is_no_hurry() {
    let rig = Rig::new();
    let cut = Course { queue_end: Some((0, at(5))), ..course(MS / 2, MS * 50) };
    let (_, again) = rig.claim(vec![job(5, None)], &cut);
    assert_ne!(again, Some(Duration::ZERO));
    assert_eq!(rig.looks().queued.map(|cursor| cursor.position), Some((0, at(5))));
    // Before what was found without a queue something may still stand.
    let (_, again) = rig.claim(vec![job(9, None)], &Course { queue_end: Some((0, at(7))), ..cut });
    assert_eq!(again, Some(Duration::ZERO));
}

#[test]
fn a_freed_queue_that_was_passed_by_is_looked_for_where_it_was_taken() {
    let mut rig = Rig::new();
    // Taken at the start of the line, and then passed by while it is held.
    rig.claim(vec![job(1, Some("q"))], &course(MS / 2, MS));
    let cut = Course { queue_end: Some((0, at(3))), seen_queues: vec![1], ..course(MS / 2, MS * 30) };
    rig.claim(vec![], &cut);
    let passed = rig.looks();
    assert!(passed.queued.is_some() && passed.freed_queues.is_empty());
    rig.cursors.queues_were_freed(["q"].into_iter(), rig.now);
    let (aside, _) = rig.claim(vec![job(2, Some("q"))], &course(MS / 2, MS));
    assert_eq!((aside.queued, aside.passed.len(), aside.freed_queues), (None, 0, vec!["q".to_owned()]));
    let on = rig.looks();
    assert_eq!((on.queued, &on.passed), (passed.queued, &passed.passed), "the pass goes on where it was");

    // What is not found there stands further down: the pass begins anew, once.
    rig.cursors.queues_were_freed(["q"].into_iter(), rig.now);
    rig.claim(vec![], &Course { queue_end: Some((0, at(1))), seen_queues: vec![2], ..course(MS / 2, MS * 30) });
    assert_eq!(rig.looks().queued.map(|cursor| cursor.position), Some((0, at(1))));
    rig.cursors.queues_were_freed(["q"].into_iter(), rig.now);
    rig.claim(vec![], &Course { queue_end: Some((0, at(0))), seen_queues: vec![2], ..course(MS / 2, MS * 30) });
    assert_eq!(
        rig.looks().queued.map(|cursor| cursor.position),
        Some((0, at(1))),
        "not more than half of the time goes to that"
    );
    rig.now += MS * 70;
    assert_eq!(rig.looks().queued, None);
}

#[test]
fn a_queue_that_was_taken_by_a_look_aside_is_looked_for_there_again() {
    let mut rig = Rig::new();
    rig.claim(vec![job(1, Some("q"))], &course(MS / 2, MS));
    let cut = |second| Course { queue_end: Some((0, at(second))), seen_queues: vec![1], ..course(MS / 2, MS * 30) };
    rig.claim(vec![], &cut(3));
    // Nothing is found where it was taken, so the pass begins there anew and comes as far as this.
    rig.cursors.queues_were_freed(["q"].into_iter(), rig.now);
    rig.claim(vec![], &cut(2));
    assert_eq!(rig.looks().queued.map(|cursor| cursor.position), Some((0, at(2))));
    // Then something is found after all, and something else further down the line.
    rig.cursors.queues_were_freed(["q"].into_iter(), rig.now);
    let (aside, _) = rig.claim(vec![job(2, Some("q"))], &course(MS / 2, MS));
    assert_eq!(aside.queued, None);
    let (on, _) = rig.claim(vec![job(9, Some("r"))], &course(MS / 2, MS));
    assert_eq!(on.queued.map(|cursor| cursor.position), Some((0, at(2))));
    rig.now += MS * 70;
    rig.cursors.queues_were_freed(["q"].into_iter(), rig.now);
    assert_eq!(rig.looks().queued, None, "the first of both is where the line begins");
}

#[test]
fn one_slow_look_of_a_busy_machine_changes_nothing() {
    let slow = course(MS * 15, MS / 2);
    let rig = Rig::assured();
    for _ in 0..5 {
        rig.claim(vec![job(5, None)], &slow);
        rig.claim(vec![job(5, None)], &slow);
        rig.claim(vec![job(5, None)], &course(MS / 2, MS / 2));
        assert!(rig.looks().are_simple());
    }
    for _ in 0..DEAR_LOOKS {
        assert!(rig.looks().are_simple());
        rig.claim(vec![job(5, None)], &slow);
    }
    assert_eq!(rig.looks().plain_rows, Some(FIRST_ROWS));
    // The same of looks for queues that come as far as the other look.
    let rig = Rig::assured();
    let far = Course { queue_end: Some((0, at(5))), ..course(MS / 2, MS * 15) };
    for _ in 0..DEAR_LOOKS {
        assert_eq!(rig.looks().queued, None);
        rig.claim(vec![job(5, None)], &far);
    }
    assert_eq!(rig.looks().queued.map(|cursor| cursor.position), Some((0, at(5))));
}

#[test]
fn a_bounded_look_can_see_what_it_wants_beside_another_claim() {
    let rig = Rig::new();
    let many = ClaimRequest::new(&rig.pool, &rig.tasks, 4_000);
    let looks = rig.cursors.begin(&many, 4_000, rig.now);
    assert_eq!(looks.plain_rows, Some(2 * 4_000 + SPARE_ROWS));
}

#[test]
fn a_look_for_queues_sees_no_more_than_was_enough() {
    let rig = Rig::assured();
    let request = ClaimRequest::new(&rig.pool, &rig.tasks, 10).free_slots(2);
    let claim = |jobs| {
        let looks = rig.cursors.begin(&request, 100, rig.now);
        let mut claimed = Claimed::jobs(jobs);
        rig.cursors.end(&looks, &request, &mut claimed, &course(MS / 2, MS / 2), rig.now);
        looks.queue_rows
    };
    let of = |jobs: i64, queues: i64| (0..jobs).map(|id| job(id, Some(&(id % queues).to_string()))).collect::<Vec<_>>();
    let (all, least) = (3 * 100 + SPARE_ROWS, 2 * 10 + SPARE_ROWS);
    let seen = [claim(of(10, 10)), claim(of(10, 10)), claim(of(10, 10)), claim(of(10, 10))];
    assert_eq!(seen, [all, all / 2, all / 4, least], "many queues, of which no runs are to be had");
    let seen = [claim(of(40, 10)), claim(of(80, 10)), claim(of(100, 10)), claim(of(100, 10))];
    let (more, less) = (least / 2 * 3, least / 2 * 3 / 4 * 3);
    assert_eq!(seen, [least, more, more, less.max(least)], "as long as runs become longer by it");
    let seen = [claim(of(70, 7)), claim(of(40, 2)), claim(of(40, 2))];
    assert_eq!(seen, [least, least, more], "few queues could give longer runs");
    // Jobs of one queue do not fill the slots, so perhaps there are others further down the line.
    assert_eq!(
        [claim(of(10, 1)), claim(of(10, 10)), claim(vec![]), claim(vec![])],
        [more / 2 * 3, all, all / 2, all / 2]
    );
}

#[test]
fn one_claim_tells_others_of_a_freed_queue_and_the_next_one_if_it_failed() {
    let rig = Rig::assured();
    assert!(rig.looks().freed_queues.is_empty());
    rig.cursors.queues_were_freed(["q"].into_iter(), rig.now);
    let looks = rig.looks();
    assert!(looks.freed_queues == ["q"] && !looks.are_simple());
    assert!(rig.looks().freed_queues.is_empty());
    rig.cursors.nobody_was_told(&looks.freed_queues);
    assert_eq!(rig.looks().freed_queues, ["q"]);
}

#[test]
fn each_set_of_tasks_has_its_own_cursors_and_all_know_the_same_priorities() {
    let mut rig = Rig::new();
    let cut = Course { plain_end: Some((0, at(1))), seen_levels: vec![4, -3], ..course(MS * 5, MS / 2) };
    rig.claim(vec![], &cut);
    rig.claim(vec![], &Course { seen_levels: vec![0], ..cut });
    rig.tasks.push("another".to_owned());
    let looks = rig.looks();
    assert_eq!(looks.plain, None);
    assert_eq!(*looks.levels, [-3, 0, 4]);
    rig.tasks.pop();
    assert!(rig.looks().plain.is_some());
}

#[test]
fn a_thorough_claim_passes_nothing_by_and_teaches_nothing() {
    let rig = Rig::new();
    rig.claim(vec![], &Course { plain_end: Some((0, at(1))), ..course(MS * 5, MS / 2) });
    let before = rig.looks();
    let request = rig.request().full_scan(true);
    let looks = rig.cursors.begin(&request, 10, rig.now);
    assert_eq!((looks.plain, looks.plain_rows, looks.queued, looks.queue_rows), (None, None, None, i32::MAX));
    assert!(looks.passed.is_empty() && !looks.are_simple());
    let mut claimed = Claimed::default();
    rig.cursors.end(&looks, &request, &mut claimed, &course(MS * 500, MS * 500), rig.now);
    assert_eq!((claimed.rescan_after, rig.looks().plain), (None, before.plain));
}

#[test]
fn when_jobs_were_made_ready_that_may_have_been_passed_by_all_begins_anew() {
    let mut rig = Rig::new();
    let cut = Course { plain_end: Some((0, at(1))), ..course(MS * 5, MS / 2) };
    let (begun, _) = rig.claim(vec![], &cut);
    assert!(rig.looks().plain.is_some());
    rig.cursors.forget_soon();
    assert!(rig.looks().plain.is_some(), "not all the time");
    rig.now += MS * 5 * PAUSE;
    assert_eq!(rig.looks().plain, None);
    rig.claim(vec![], &cut);
    assert!(rig.looks().plain.is_some());
    rig.cursors.forget();
    assert_eq!(rig.looks().plain, None, "what this worker itself has done is known at once");
    // What a claim learned that began before does not count.
    let mut claimed = Claimed::default();
    rig.cursors.end(&begun, &rig.request(), &mut claimed, &cut, rig.now);
    assert_eq!((rig.looks().plain, claimed.rescan_after), (None, Some(Duration::ZERO)));
}

#[test]
fn new_jobs_that_fill_a_look_are_passed_by_too_and_do_not_put_the_next_pass_off() {
    let mut rig = Rig::new();
    let cut = |second| Course { queue_end: Some((0, at(second))), seen_queues: vec![1], ..course(MS / 2, MS * 30) };
    let end = Course { queue_end: Some(end_of_line()), moment: Some(at(60)), ..course(MS / 2, MS) };
    rig.claim(vec![], &cut(5));
    let (_, pause) = rig.claim(vec![], &end);
    assert_eq!(pause, Some(MS * 31 * PAUSE));
    let new = Course { moment: Some(at(50)), ..cut(3) };
    assert_eq!(rig.claim(vec![], &new).1, Some(Duration::ZERO));
    let passed_by = Cursor { position: (0, at(3)), since: at(50) - SLACK };
    assert_eq!(rig.looks().queued, Some(passed_by));
    assert_eq!(rig.claim(vec![], &end).1, pause);
    assert_eq!(rig.looks().queued, Some(Cursor { position: end_of_line(), ..passed_by }));
    rig.now += pause.expect("it is there");
    assert_eq!(rig.looks().queued, None);
}
