//! What the module says of passes, with a clock that only the test moves.

use std::sync::LazyLock;

use super::*;
use crate::job::{Job, Payload, Priority};
use crate::storage::{ClaimToken, ClaimedJob, WorkerId};

const MS: Duration = Duration::from_millis(1);

/// A worker, by a clock that the test moves.
struct Looks {
    cursor: Cursor,
    worker: WorkerId,
    begun: Instant,
    now: Instant,
    /// The clock was set back by so much.
    set_back: TimeDelta,
}

/// What a look was told: where it began, and after how many milliseconds to look again.
type Told = (Option<i16>, Option<u128>);

impl Looks {
    fn new() -> Self {
        let now = Instant::now();
        Self { cursor: Cursor::default(), worker: WorkerId::random(), begun: now, now, set_back: TimeDelta::zero() }
    }

    fn at(&mut self, ms: u64) -> &mut Self {
        self.now = self.begun + Duration::from_millis(ms);
        self
    }

    fn moment(&self) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::days(9_000) + (self.now - self.begun) - self.set_back
    }

    fn begin(&self) -> Start {
        self.cursor.begin(&request(&self.worker), self.moment(), self.now)
    }

    /// A look that took so many milliseconds.
    fn look(&self, took: u32, reached: Reached, jobs: &[i16]) -> Told {
        self.look_by(&request(&self.worker), took, reached, jobs)
    }

    fn look_by(&self, request: &ClaimRequest<'_>, took: u32, reached: Reached, jobs: &[i16]) -> Told {
        let start = self.cursor.begin(request, self.moment(), self.now);
        self.end(&start, request, took, reached, jobs)
    }

    fn end(&self, start: &Start, request: &ClaimRequest<'_>, took: u32, reached: Reached, jobs: &[i16]) -> Told {
        let job = |priority: &i16| {
            let mut job = Job::new(1, "t", Payload::empty(), self.moment());
            job.priority = Priority(*priority);
            ClaimedJob::new(job, ClaimToken::from_number(1))
        };
        let mut claimed = Claimed { jobs: jobs.iter().map(job).collect(), ..Claimed::default() };
        let walk = Walk { took: took * MS, is_long: took > 0, reached };
        self.cursor.end(start, request, &mut claimed, &walk, self.now);
        (start.position.map(|position| position.0), claimed.rescan_after.map(|pause| pause.as_millis()))
    }
}

static TASKS: LazyLock<[String; 1]> = LazyLock::new(|| ["t".to_owned()]);

fn request(worker: &WorkerId) -> ClaimRequest<'_> {
    ClaimRequest::new(worker, &TASKS[..], 10)
}

fn until(priority: i16) -> Position {
    (priority, DateTime::UNIX_EPOCH)
}

#[test]
fn after_a_long_look_the_next_begin_behind_what_was_seen_until_there_is_time_for_another() {
    let mut looks = Looks::new();
    assert_eq!(looks.at(0).look(0, Reached::Taken, &[1]), (None, None));
    let many = [5; 10];
    assert_eq!(looks.at(1).look(100, Reached::Taken, &many), (None, None), "a cheap look is always from the start");
    assert_eq!(
        looks.at(2).look(0, Reached::Taken, &[7]),
        (Some(5), Some(1_899)),
        "when to look for what was passed by"
    );
    assert_eq!(looks.at(101).look(0, Reached::End, &[]), (Some(7), Some(1_800)), "it moves on");
    assert_eq!(looks.at(1_900).look(0, Reached::End, &[]), (Some(i16::MAX), Some(1)));
    assert_eq!(looks.at(1_901).look(100, Reached::End, &[]), (None, Some(2_000)), "now there is time");
    looks.cursor.queue_was_freed(looks.now);
    assert_eq!(
        looks.at(2_000).look(0, Reached::End, &[]),
        (Some(i16::MAX), Some(1)),
        "half of the time for our queues"
    );
    assert_eq!(looks.at(2_001).look(100, Reached::Taken, &many), (None, None));
    let others = ["u".to_owned()];
    let request = ClaimRequest::new(&looks.worker, &others, 10);
    assert_eq!(looks.look_by(&request, 100, Reached::End, &[]), (None, Some(1_900)), "others see another line");
    let (tasks, limits) = (["t".to_owned(), "u".to_owned()], [("u".to_owned(), 0)]);
    let request = ClaimRequest::new(&looks.worker, &tasks, 10);
    assert_eq!(
        looks.look_by(&request.limits(&limits), 0, Reached::Taken, &many).0,
        Some(5),
        "a full task is not looked for"
    );
    assert_eq!(looks.look_by(&request, 0, Reached::Taken, &many), (None, None), "and one that is not, is");
    assert_eq!(looks.look(0, Reached::Taken, &many).0, Some(5));
    let request = ClaimRequest::new(&looks.worker, &tasks[..1], 10).full_scan(true);
    let nothing = "nothing is passed by, so it need not be done again";
    assert_eq!(looks.look_by(&request, 100, Reached::End, &[]), (None, None), "{nothing}");
    assert_eq!(looks.at(99_000).look(0, Reached::End, &[]), (None, None));
    assert_eq!(
        looks.at(99_001).look(100, Reached::End, &[]),
        (None, Some(1_900)),
        "it was cheap, so this is from the start"
    );
    looks.cursor.forget();
    assert_eq!(looks.look(100, Reached::End, &[]), (None, Some(1_900)));
}

#[test]
fn what_became_ready_since_it_was_seen_is_looked_at() {
    let mut looks = Looks::new();
    let since = |looks: &Looks| {
        let start = looks.begin();
        assert!(start.position.is_some());
        looks.moment() - start.since
    };
    let slack = |ms: i64| SLACK + TimeDelta::milliseconds(ms);
    looks.at(0).look(1_000, Reached::End, &[]);
    assert_eq!(since(looks.at(300)), slack(300));
    looks.at(500).look(0, Reached::End, &[]);
    assert_eq!(since(looks.at(600)), slack(100), "this one has seen what was new");
    looks.at(700).look(0, Reached::Taken, &[3; 10]);
    assert_eq!(since(looks.at(800)), slack(300), "and this one had enough before it came so far");
    looks.at(900).look(0, Reached::Until(until(3)), &[3]);
    assert_eq!(since(looks.at(1_000)), slack(500), "nor does that which left some count");
    looks.set_back = TimeDelta::seconds(5);
    let start = looks.begin();
    assert_eq!(start.position, None, "the clock was set back, so new jobs look like old ones");
}

#[test]
fn looks_of_a_busy_machine_are_believed_when_there_are_three_of_them_or_when_they_take_very_long() {
    let mut looks = Looks::new();
    assert_eq!(looks.at(0).look(9, Reached::End, &[]), (None, None));
    assert_eq!(looks.at(1).look(9, Reached::End, &[]), (None, None));
    assert_eq!(looks.at(2).look(0, Reached::End, &[]), (None, None));
    for _ in 0..2 {
        assert_eq!(looks.look(9, Reached::End, &[]), (None, None));
    }
    assert_eq!(looks.look(9, Reached::End, &[]), (None, Some(171)));
    looks.at(173).look(0, Reached::End, &[]);
    assert_eq!(looks.look(21, Reached::End, &[]), (None, Some(399)));
}

#[test]
fn a_walk_that_was_broken_off_goes_on_and_is_one_pass() {
    let mut looks = Looks::new();
    assert_eq!(looks.at(0).look(1_000, Reached::BrokenOff(until(1)), &[]), (None, Some(0)));
    // It takes longer than there is between two passes.
    assert_eq!(looks.at(94_000).look(1_000, Reached::BrokenOff(until(2)), &[]), (Some(1), Some(0)));
    assert_eq!(looks.at(98_000).look(1_000, Reached::End, &[]), (Some(2), Some(57_000)));
    assert_eq!(looks.at(98_001).look(0, Reached::End, &[]), (Some(i16::MAX), Some(56_999)));
    // So many new jobs that a look at them is broken off are another one.
    assert_eq!(looks.at(99_000).look(1_000, Reached::BrokenOff(until(-3)), &[]), (Some(i16::MAX), Some(0)));
    assert_eq!(looks.at(100_000).look(2_000, Reached::End, &[]), (Some(-3), Some(114_000)));
    let request = request(&looks.worker).full_scan(true);
    let start = looks.cursor.begin(&request, looks.moment(), looks.now);
    assert!(start.position.is_none() && !start.may_break_off, "nothing is passed by");
}

#[test]
fn what_a_claim_learned_that_began_before_jobs_were_made_ready_does_not_count() {
    let looks = Looks::new();
    let request = request(&looks.worker);
    looks.look(1_000, Reached::End, &[]);
    for from_start in [true, false] {
        if from_start {
            looks.cursor.forget();
        }
        let start = looks.begin();
        assert_eq!(start.position.is_none(), from_start);
        looks.cursor.forget_soon();
        let before_its_time = looks.end(&start, &request, 1_000, Reached::End, &[]).1;
        assert_eq!(before_its_time, Some(0), "told while it looked");
        looks.cursor.forget();
        assert_eq!(looks.end(&start, &request, 1_000, Reached::End, &[]).1, Some(0));
        looks.look(1_000, Reached::End, &[]);
    }
}

#[test]
fn an_idle_worker_spends_no_more_than_a_twentieth_on_passes_whatever_it_is_told() {
    // Never, now and then, and all the time.
    for told_every in [u64::MAX, 200_000, 60_000, 1_000, 10] {
        for parts in [1, 30] {
            let mut looks = Looks::new();
            let (mut now, mut spent, mut passes, mut late) = (0, 0, 0, 0);
            let mut next_news = told_every;
            let hour = 3_600_000;
            while now < hour {
                looks.at(now);
                let (mut from, mut pause) = (None, Some(0));
                for part in 1..=parts {
                    // Half a million rows take a second.
                    let reached = if part < parts { Reached::BrokenOff(until(part)) } else { Reached::End };
                    let start = looks.begin();
                    let took = if start.position.is_none_or(|position| position.0 < i16::MAX) { 1_000 } else { 0 };
                    let reached = if took == 0 { Reached::End } else { reached };
                    now += u64::from(took);
                    looks.at(now);
                    let told = looks.end(&start, &request(&looks.worker), took, reached, &[]);
                    (from, pause) = if part == 1 { told } else { (from, told.1) };
                    spent += u64::from(took);
                    if took == 0 {
                        break;
                    }
                }
                passes += u64::from(from.is_none());
                let pause = u64::try_from(pause.expect("something was passed by")).expect("small").max(1);
                let wakes = now + pause;
                if next_news < wakes {
                    now = now.max(next_news);
                    next_news = now + told_every;
                    looks.at(now).cursor.forget_soon();
                    // Whoever is told looks at once, and may look from the start if the last pass was not before its time.
                    let start = looks.begin();
                    late += u64::from(start.position.is_some());
                } else {
                    now = wakes;
                }
            }
            let one_more = 1_000 * u64::try_from(parts).expect("positive");
            assert!(spent <= now / 20 + one_more, "{told_every}, {parts}: {spent} of {now} ms");
            assert!(passes >= 3, "{told_every}, {parts}: {passes}");
            let rarely = told_every > 2 * 20 * one_more;
            assert!(!rarely || late == 0, "{told_every}, {parts}: {late}");
        }
    }
}
