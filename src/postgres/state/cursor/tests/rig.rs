//! A worker's cursors, and a clock that only the test moves.

use super::*;
use crate::job::{Job, Payload};
use crate::storage::{ClaimToken, ClaimedJob, WorkerId};

/// A worker's cursors, and a clock that only the test moves.
pub(super) struct Rig {
    pub(super) cursors: Cursors,
    pub(super) now: Instant,
    pub(super) pool: WorkerId,
    pub(super) tasks: Vec<String>,
}

pub(super) const MS: Duration = Duration::from_millis(1);

pub(super) fn at(second: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::seconds(1_000_000 + second)
}

/// A job of this second, of this queue.
pub(super) fn job(id: i64, queue: Option<&str>) -> ClaimedJob {
    let mut job = Job::new(id, "t", Payload::empty(), at(id));
    job.queue = queue.map(str::to_owned);
    ClaimedJob::new(job, ClaimToken::from_number(1))
}

/// A claim's looks that took so long and found the end of neither line to be told.
pub(super) fn course(plain: Duration, queued: Duration) -> Course {
    Course { moment: Some(at(0)), plain_took: plain, queue_took: Some(queued), ..Course::default() }
}

impl Rig {
    pub(super) fn new() -> Self {
        Self {
            cursors: Cursors::default(),
            now: Instant::now(),
            pool: WorkerId::named("p"),
            tasks: vec!["t".to_owned()],
        }
    }

    pub(super) fn request(&self) -> ClaimRequest<'_> {
        ClaimRequest::new(&self.pool, &self.tasks, 10)
    }

    pub(super) fn looks(&self) -> Looks {
        self.cursors.begin(&self.request(), 10, self.now)
    }

    /// A claim that goes as it is said, and when to look again.
    pub(super) fn claim(&self, jobs: Vec<ClaimedJob>, course: &Course) -> (Looks, Option<Duration>) {
        let looks = self.looks();
        let mut claimed = Claimed::jobs(jobs);
        self.cursors.end(&looks, &self.request(), &mut claimed, course, self.now);
        (looks, claimed.rescan_after)
    }

    /// The worker has found that looks are cheap.
    pub(super) fn assured() -> Self {
        let rig = Self::new();
        rig.claim(vec![job(1, None)], &course(Duration::ZERO, Duration::ZERO));
        assert!(rig.looks().are_simple());
        rig
    }
}
