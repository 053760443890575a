//! What was written, and what that means.

use std::collections::HashSet;
use std::time::Instant;

use chrono::Utc;

use super::super::events::Event;
use super::batch::{Batch, Mark};
use super::{Settler, WRITE_TIMEOUT, Written};
use crate::job::{JobId, RunAt};
use crate::storage::{ClaimToken, Outcome, Settlement};

impl Settler {
    /// A batch was written, but for what is busy.
    pub(super) async fn settled(
        &mut self,
        batch: &Batch,
        applied: Vec<JobId>,
        busy: &HashSet<JobId>,
        freed_queues: usize,
    ) {
        let in_doubt = batch.marks.iter().any(|mark| mark.in_doubt);
        // As a rule everything is, and nothing has to be looked for.
        if busy.is_empty() && !in_doubt && applied.len() == batch.len() {
            self.applied(freed_queues, &batch.settlements, |_| true);
            return;
        }
        let written: Vec<(&Settlement, &Mark)> =
            batch.iter().filter(|(settlement, _)| !busy.contains(&settlement.claim.id)).collect();
        let mut applied: HashSet<JobId> = applied.into_iter().collect();
        let in_doubt: Vec<&Settlement> =
            written.iter().filter(|(_, mark)| mark.in_doubt).map(|(settlement, _)| *settlement).collect();
        if !in_doubt.is_empty() {
            let before = self.applied_before(&in_doubt, &applied).await;
            applied.extend(before);
        }
        if !written.is_empty() {
            let written = written.into_iter().map(|(settlement, _)| settlement);
            self.applied(freed_queues, written, |job| applied.contains(&job));
        }
    }

    /// Of a batch that was tried before without an answer: what an earlier try has written. A job that should be gone and is
    /// there was claimed by somebody else meanwhile; of the others nobody can tell, and they are taken for written.
    pub(super) async fn applied_before(&self, batch: &[&Settlement], applied: &HashSet<JobId>) -> Vec<JobId> {
        let unknown = || batch.iter().filter(|settlement| !applied.contains(&settlement.claim.id));
        let gone: Vec<JobId> = unknown()
            .filter(|settlement| settlement.outcome.is_completed())
            .map(|settlement| settlement.claim.id)
            .collect();
        if gone.is_empty() {
            return unknown().map(|settlement| settlement.claim.id).collect();
        }
        let present = tokio::select! {
            present = self.calls.call(WRITE_TIMEOUT, self.calls.storage().existing(&gone)) => present,
            () = self.give_up.cancelled() => Ok(Vec::new()),
        };
        // One question without an answer is enough: then all are taken for written.
        let gone: HashSet<JobId> = gone.into_iter().collect();
        let present: HashSet<JobId> = present.unwrap_or_default().into_iter().collect();
        unknown()
            .map(|settlement| settlement.claim.id)
            .filter(|id| !(gone.contains(id) && present.contains(id)))
            .collect()
    }

    pub(super) fn applied<'b>(
        &mut self,
        freed_queues: usize,
        batch: impl IntoIterator<Item = &'b Settlement> + Clone,
        is_applied: impl Fn(JobId) -> bool,
    ) {
        let mut stale = Vec::new();
        for settlement in batch.clone() {
            self.backlog.remove(settlement);
            if settlement.done_elsewhere && !is_applied(settlement.claim.id) {
                // As it was meant: its transaction was committed.
                self.summary.count(&Outcome::completed());
                continue;
            }
            if !is_applied(settlement.claim.id) {
                self.summary.stale += 1;
                stale.push(settlement.claim.id);
                tracing::warn!(job = %settlement.claim.id, "a result came too late: the job's claim had been broken");
                continue;
            }
            self.summary.count(&settlement.outcome);
            if let Some(due) = due(&settlement.outcome) {
                // The engine may be gone at the very end; then nobody needs to know.
                let _ = self.written.send(Written::Due(due));
            }
        }
        let claims: Vec<(JobId, ClaimToken)> =
            batch.into_iter().map(|settlement| (settlement.claim.id, settlement.claim.token)).collect();
        self.events.tell(|| Event::Written {
            jobs: claims.iter().map(|(job, _)| *job).filter(|job| !stale.contains(job)).collect(),
            stale,
        });
        let _ = self.written.send(Written::Batch { claims, freed_queues });
    }
}

/// When a job that was written will be ready, if that is soon.
fn due(outcome: &Outcome) -> Option<Instant> {
    let (Outcome::Failed { retry: when, .. } | Outcome::Snoozed { until: when, .. }) = outcome else {
        return None;
    };
    let delay = match when {
        RunAt::In(delay) => *delay,
        RunAt::Time(time) => (*time - Utc::now()).to_std().unwrap_or_default(),
    };
    Instant::now().checked_add(delay)
}
