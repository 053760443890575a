//! Taking work from queues.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::core::Core;
use super::run::Place;
use crate::error::Result;
use crate::store::{Claim, INTERNAL_QUEUE, QueueRow};

/// How many workflows one claim takes at most.
const BATCH: i64 = 200;
/// The longest pause between two looks at a queue that could not be looked at.
const LONGEST_PAUSE: Duration = Duration::from_secs(120);
/// How old settings of queues may be.
const FRESH: Duration = Duration::from_secs(1);

/// When a queue is looked at next.
struct Look {
    at: Instant,
    /// How long after a failure.
    pause: Duration,
}

/// Takes work until the engine closes.
pub(super) async fn run(core: Arc<Core>) {
    let mut looks: HashMap<String, Look> = HashMap::new();
    let names: Vec<String> = core.registry.keys().map(|name| (*name).to_owned()).collect();
    let closing = core.closing.clone();
    closing
        .run_until_cancelled(async {
            loop {
                let next = turn(&core, &names, &mut looks).await;
                tokio::select! {
                    () = tokio::time::sleep_until(next.into()) => {}
                    () = core.nudge.notified() => {}
                }
            }
        })
        .await;
}

/// Looks at each queue that is due. Answers when the next one is.
async fn turn(core: &Arc<Core>, names: &[String], looks: &mut HashMap<String, Look>) -> Instant {
    let soon = Instant::now() + FRESH;
    if core.paused.load(Ordering::Acquire) || names.is_empty() {
        return soon;
    }
    let (woken, all) = core.take_woken();
    let queues = match core.known_queues().await {
        Ok(queues) => queues,
        Err(error) => {
            tracing::warn!(%error, "the queues could not be read; they are in a second");
            return soon;
        }
    };
    let mut next = soon;
    let internal = internal_queue();
    for queue in queues.iter().chain([&internal]) {
        if !core.listens(&queue.name) {
            continue;
        }
        let due = looks.get(&queue.name).is_none_or(|look| look.at <= Instant::now());
        if due || all || woken.contains(&queue.name) {
            let polling = Duration::from_millis(u64::try_from(queue.polling).unwrap_or(1000));
            let before = looks.get(&queue.name).map_or(polling, |look| look.pause);
            let pause = match take(core, queue, names).await {
                Ok(()) => before.mul_f64(0.9).max(polling),
                Err(error) => {
                    tracing::debug!(queue = queue.name, %error, "a queue could not be looked at");
                    (before * 2).min(LONGEST_PAUSE).max(polling)
                }
            };
            let at = Instant::now() + pause.mul_f64(0.95 + 0.1 * fastrand::f64());
            looks.insert(queue.name.clone(), Look { at, pause });
        }
        if let Some(look) = looks.get(&queue.name) {
            next = next.min(look.at);
        }
    }
    next
}

/// Takes what there is from a queue, as long as there is room.
async fn take(core: &Arc<Core>, queue: &QueueRow, names: &[String]) -> Result<()> {
    if !queue.partitioned {
        return take_from(core, queue, names, None).await;
    }
    let mut parts = core.store.partitions(&queue.name).await?;
    // No part is always the first.
    fastrand::shuffle(&mut parts);
    for part in parts {
        take_from(core, queue, names, Some(part)).await?;
    }
    Ok(())
}

async fn take_from(core: &Arc<Core>, queue: &QueueRow, names: &[String], part: Option<String>) -> Result<()> {
    let place = Place { queue: queue.name.clone(), partition: part };
    let part = place.partition.as_deref();
    loop {
        let room = |limit: Option<i64>, running: usize| {
            limit.map_or(i64::MAX, |limit| limit.saturating_sub(i64::try_from(running).unwrap_or(i64::MAX)))
        };
        let free = core.settings.max_running.saturating_sub(core.running());
        let mut limit = BATCH.min(i64::try_from(free).unwrap_or(i64::MAX));
        limit = limit.min(room(queue.worker_concurrency, core.running_in(&queue.name)));
        if part.is_some() {
            limit = limit.min(room(queue.partition_worker_concurrency, core.running_at(&place)));
        }
        if limit <= 0 {
            return Ok(());
        }
        let claim = Claim {
            queue: &queue.name,
            partition: part,
            limit,
            names,
            executor: &core.settings.executor,
            version: &core.settings.version,
            application: core.settings.application.as_deref(),
            concurrency: queue.concurrency,
            partition_concurrency: queue.partition_concurrency,
            rate: queue.rate,
            partition_rate: queue.partition_rate,
        };
        let claimed = core.store.claim(&claim).await?;
        let count = i64::try_from(claimed.len()).unwrap_or(i64::MAX);
        for one in claimed {
            core.run_claimed(one).await;
        }
        if count < limit {
            return Ok(());
        }
    }
}

/// The engine's own queue has no limits.
fn internal_queue() -> QueueRow {
    QueueRow {
        name: INTERNAL_QUEUE.to_owned(),
        concurrency: None,
        worker_concurrency: None,
        rate: None,
        partitioned: false,
        partition_concurrency: None,
        partition_worker_concurrency: None,
        partition_rate: None,
        polling: 1000,
    }
}

impl Core {
    /// The queues' settings, at most a second old.
    pub(crate) async fn known_queues(&self) -> Result<Arc<Vec<QueueRow>>> {
        if let Some((at, queues)) = &*self.queues()
            && at.elapsed() < FRESH
        {
            return Ok(Arc::clone(queues));
        }
        let queues = Arc::new(self.store.queues().await?);
        *self.queues() = Some((Instant::now(), Arc::clone(&queues)));
        Ok(queues)
    }

    fn listens(&self, queue: &str) -> bool {
        queue == INTERNAL_QUEUE || self.settings.listen.as_ref().is_none_or(|listen| listen.contains(queue))
    }
}
