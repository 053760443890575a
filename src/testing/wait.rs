//! Waiting for jobs of others.

use std::panic::Location;
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep};

use super::TestQueue;
use super::failure::unmatched;
use super::jobs::{Found, Jobs};
use super::matcher::JobMatcher;
use super::span::human;

/// How often to look. A job can change in ways that no wakeup tells, such as by being done.
const LOOK: Duration = Duration::from_millis(10);

pub(super) async fn for_one<P: DeserializeOwned>(
    queue: &TestQueue,
    matcher: JobMatcher<P>,
    timeout: Duration,
    caller: &'static Location<'static>,
) -> Found<P> {
    let jobs = look_until(queue, timeout, |jobs| !jobs.matching(&matcher).is_empty()).await;
    let found = jobs.matching(&matcher).into_iter().next();
    found.unwrap_or_else(|| late(&jobs, &matcher, 1, timeout, caller))
}

pub(super) async fn for_none<P: DeserializeOwned>(
    queue: &TestQueue,
    matcher: JobMatcher<P>,
    timeout: Duration,
    caller: &'static Location<'static>,
) {
    let jobs = look_until(queue, timeout, |jobs| jobs.matching(&matcher).is_empty()).await;
    if !jobs.matching(&matcher).is_empty() {
        late(&jobs, &matcher, 0, timeout, caller);
    }
}

/// Looks until it is so, or the time is over.
async fn look_until(queue: &TestQueue, timeout: Duration, is_so: impl Fn(&Jobs) -> bool) -> Jobs {
    let begun = Instant::now();
    loop {
        let jobs = queue.jobs().await;
        if is_so(&jobs) || begun.elapsed() >= timeout {
            return jobs;
        }
        sleep(LOOK).await;
    }
}

fn late<P: DeserializeOwned>(
    jobs: &Jobs,
    matcher: &JobMatcher<P>,
    expected: usize,
    timeout: Duration,
    caller: &Location<'_>,
) -> ! {
    let text = unmatched(jobs, matcher, expected, jobs.matching(matcher).len());
    panic!("waited for {} at {caller}: {text}", human(timeout))
}
