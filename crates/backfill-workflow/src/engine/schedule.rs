//! Starting what is scheduled.
//!
//! Each engine looks at each schedule, and starts what is due under an id made of the schedule's name and the moment: whoever comes second finds it
//! there. What is started goes to the latest version of the program, whether or not this process has the function.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};

use super::core::Core;
use crate::client::{LATE, tick, tick_id, times};
use crate::error::Result;
use crate::store::{ScheduleChange, ScheduleRow};

/// How often the schedules are read anew.
const READ: Duration = Duration::from_secs(5);
/// How long at most it waits for a moment before it looks again, because clocks are set.
const LONGEST: Duration = Duration::from_secs(1);
/// How many missed moments one look makes up for.
const MADE_UP: usize = 100;

/// Up to when each schedule was looked at, with the row that was seen.
type Looked = HashMap<String, (ScheduleRow, DateTime<Utc>)>;

/// Starts what is due until the engine closes.
pub(super) async fn run(core: Arc<Core>) {
    let closing = core.closing.clone();
    let mut looked: Looked = HashMap::new();
    closing
        .run_until_cancelled(async {
            loop {
                let schedules = match core.store.schedules().await {
                    Ok(schedules) => schedules,
                    Err(error) => {
                        tracing::warn!(%error, "the schedules could not be read; they are in a second");
                        tokio::time::sleep(Duration::from_secs(1)).await;
                        continue;
                    }
                };
                // One that was changed or forgotten begins anew, and a paused one when it goes on.
                looked.retain(|_, (seen, _)| schedules.iter().any(|row| is_same(row, seen)));
                for row in &schedules {
                    let was_paused = looked.get(&row.name).is_some_and(|(seen, _)| seen.paused);
                    if row.paused || was_paused {
                        looked.insert(row.name.clone(), (row.clone(), now(&core)));
                    }
                }
                let until = tokio::time::Instant::now() + READ;
                loop {
                    let mut next = None;
                    for row in schedules.iter().filter(|row| !row.paused && mine(&core, row)) {
                        match look(&core, row, &mut looked).await {
                            Ok(due) => next = [next, due].into_iter().flatten().min(),
                            Err(error) => {
                                tracing::warn!(schedule = row.name, %error, "a schedule could not start what is due");
                            }
                        }
                    }
                    let now = now(&core);
                    let wait = next.and_then(|next| (next - now).to_std().ok()).unwrap_or(LONGEST).min(LONGEST);
                    let changed = tokio::select! {
                        () = tokio::time::sleep(wait.max(Duration::from_millis(1))) => false,
                        () = core.schedules.notified() => true,
                    };
                    if changed || schedules.is_empty() || tokio::time::Instant::now() >= until {
                        break;
                    }
                }
            }
        })
        .await;
}

/// Whether this process starts what the schedule starts. One of no application may be another library's, too: its workflow has to be known here.
fn mine(core: &Core, row: &ScheduleRow) -> bool {
    match &row.application {
        None => core.settings.application.is_none() || core.registry.contains_key(row.workflow.as_str()),
        application => *application == core.settings.application,
    }
}

/// Whether both are due at the same moments.
fn is_same(one: &ScheduleRow, other: &ScheduleRow) -> bool {
    one.id == other.id && one.cron == other.cron && one.time_zone == other.time_zone
}

fn now(core: &Core) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(core.now()).unwrap_or_else(Utc::now)
}

/// Starts what is due of one schedule. Answers when it is due next.
async fn look(core: &Core, row: &ScheduleRow, looked: &mut Looked) -> Result<Option<DateTime<Utc>>> {
    let times = times(row)?;
    let now = now(core);
    let fired = row.last_fired_at.as_deref().and_then(|at| at.parse::<DateTime<Utc>>().ok());
    let late = now - chrono::TimeDelta::from_std(LATE).unwrap_or_default();
    let known = looked.get(&row.name).map(|(_, at)| *at);
    let mut from = match (known, fired) {
        (Some(known), _) if row.catch_up => known,
        (Some(known), _) => known.max(late),
        (None, Some(fired)) if row.catch_up => fired,
        (None, Some(fired)) => fired.max(late),
        // A new schedule begins now.
        (None, None) => now,
    };
    for _ in 0..MADE_UP {
        let Some(next) = times.next_after(from) else { break };
        if next > now {
            looked.insert(row.name.clone(), (row.clone(), from));
            return Ok(Some(next));
        }
        let mut new = tick(row, next, tick_id(&row.name, next))?;
        new.version = core.latest_version().await?;
        let queue = new.queue.clone();
        core.store.create(&[new]).await?;
        let at = next.to_rfc3339_opts(SecondsFormat::Secs, true);
        core.store.change_schedule(&row.name, &ScheduleChange::Fired(at)).await?;
        if let Some(queue) = queue {
            core.wake_queue(&queue);
        }
        from = next;
        looked.insert(row.name.clone(), (row.clone(), from));
    }
    looked.insert(row.name.clone(), (row.clone(), from));
    Ok(times.next_after(from))
}

impl Core {
    /// The latest version of this application.
    async fn latest_version(&self) -> Result<Option<String>> {
        let mut versions = self.store.versions().await?.into_iter();
        let latest = versions.find(|version| version.application == self.settings.application);
        Ok(latest.map(|version| version.name))
    }

    /// Says that the schedules have changed.
    pub(crate) fn schedules_changed(&self) {
        self.schedules.notify_one();
    }
}
