//! Which ready jobs a claim takes: the rules, for storages that look at jobs one by one.

use std::collections::HashMap;

use super::{ClaimRequest, Claimed};
use crate::job::Job;

/// Chooses the jobs of one claim. It is shown the ready jobs in their order, smallest priority and then oldest `run_at` first.
#[derive(Debug)]
pub struct Chooser<'a> {
    request: ClaimRequest<'a>,
    /// Of the tasks that have a limit, how many more may be taken.
    limits: HashMap<&'a str, usize>,
    /// Of each serial queue that was met, how many of its jobs are taken; `None` if no more may be: it is held, its first job is not
    /// for this worker, or its run has ended.
    queues: HashMap<&'a str, Option<usize>>,
    side_by_side: usize,
    taken: usize,
    bytes: usize,
    heavy: bool,
    for_free_slots: bool,
}

/// What becomes of a job that a [`Chooser`] was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The claim takes it.
    Take,
    /// The claim leaves it, and may take one behind it.
    Leave,
    /// The claim ends before it.
    End,
}

impl<'a> Chooser<'a> {
    /// For this request, while these serial queues are held.
    #[must_use]
    pub fn new(request: &ClaimRequest<'a>, held: impl IntoIterator<Item = &'a str>) -> Self {
        Self {
            request: *request,
            limits: request.limits.iter().map(|(task, limit)| (task.as_str(), *limit)).collect(),
            queues: held.into_iter().map(|queue| (queue, None)).collect(),
            side_by_side: 0,
            taken: 0,
            bytes: 0,
            heavy: false,
            for_free_slots: false,
        }
    }

    /// Looks at the next ready job.
    pub fn look(&mut self, job: &'a Job) -> Choice {
        let request = &self.request;
        let mut queue = job.queue.as_deref().map(|queue| self.queues.entry(queue).or_insert(Some(0)));
        let Some(behind) = queue.as_deref().map_or(Some(0), |taken| *taken) else { return Choice::Leave };
        let limit = self.limits.get_mut(job.task.as_str());
        let is_last = job.attempts + 1 >= job.max_attempts;
        let fits = if behind > 0 {
            behind < request.run_length && !is_last && limit.is_none()
        } else {
            self.side_by_side < request.limit && limit.as_deref() != Some(&0)
        };
        let is_forbidden = job.flags.iter().any(|flag| request.forbidden_flags.contains(flag));
        if !fits || is_forbidden || !request.tasks.contains(&job.task) {
            if let Some(queue) = queue {
                *queue = None;
            }
            return Choice::Leave;
        }
        self.bytes += job.payload.as_str().len();
        self.for_free_slots = behind == 0 && is_last && self.side_by_side >= request.free_slots;
        self.heavy = self.bytes > request.max_bytes && self.taken > 0;
        if self.for_free_slots || self.heavy {
            return Choice::End;
        }
        if let Some(queue) = &mut queue {
            **queue = Some(behind + 1);
        }
        if behind == 0 {
            self.side_by_side += 1;
            if let Some(limit) = limit {
                *limit -= 1;
            }
        }
        self.taken += 1;
        Choice::Take
    }

    /// Whether as many jobs are taken as can run side by side. What else is taken are further jobs of runs.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.side_by_side >= self.request.limit
    }

    /// What the claim says besides its jobs.
    #[must_use]
    pub fn claimed(&self) -> Claimed {
        Claimed::default().more(self.heavy || self.for_free_slots || self.is_full()).for_free_slots(self.for_free_slots)
    }
}
