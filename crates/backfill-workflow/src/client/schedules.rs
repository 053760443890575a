//! Schedules: workflows that are started when it is time.

use std::time::Duration;

use backfill::cron;
use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Client, Handle};
use crate::error::{Error, Result};
use crate::options::{Start, text};
use crate::store::{INTERNAL_QUEUE, NewRun, ScheduleChange, ScheduleRow};
use crate::workflow::Workflow;

/// What a scheduled workflow is given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tick {
    /// The moment for which it was started.
    pub scheduled_time: DateTime<Utc>,
    /// What the schedule says to each.
    #[serde(default)]
    pub context: Value,
}

/// When a workflow is to be started.
///
/// ```
/// use backfill_workflow::{Schedule, Tick, Workflow};
///
/// const REPORT: Workflow<Tick, ()> = Workflow::named("report");
///
/// let mornings = Schedule::new("mornings", REPORT, "0 30 6 * * Mon-Fri").time_zone("Europe/Berlin").catch_up();
/// # let _ = mornings;
/// ```
#[derive(Clone, Debug)]
pub struct Schedule {
    row: ScheduleRow,
}

impl Schedule {
    /// Starts the workflow by a cron expression: seconds, minutes, hours, day, month, day of week; in UTC.
    #[must_use]
    pub fn new<O, E>(name: impl Into<String>, workflow: Workflow<Tick, O, E>, cron: impl Into<String>) -> Self {
        let row = ScheduleRow {
            id: crate::id::fresh(),
            name: name.into(),
            workflow: workflow.name().to_owned(),
            class: None,
            cron: cron.into(),
            paused: false,
            context: "null".to_owned(),
            last_fired_at: None,
            catch_up: false,
            time_zone: None,
            queue: None,
            application: None,
        };
        Self { row }
    }

    /// What each workflow is told. What cannot be serialized is left out.
    #[must_use]
    pub fn context<T: Serialize + ?Sized>(mut self, context: &T) -> Self {
        self.row.context = serde_json::to_string(context).unwrap_or_else(|_| "null".to_owned());
        self
    }

    /// The queue of the workflows.
    #[must_use]
    pub fn queue(mut self, name: impl Into<String>) -> Self {
        self.row.queue = Some(name.into());
        self
    }

    /// The time zone of the expression, by its IANA name. Needs the feature `time-zones`.
    #[must_use]
    pub fn time_zone(mut self, name: impl Into<String>) -> Self {
        self.row.time_zone = Some(name.into());
        self
    }

    /// What was missed, because no engine ran, is made up for, one workflow for each moment.
    #[must_use]
    pub fn catch_up(mut self) -> Self {
        self.row.catch_up = true;
        self
    }
}

/// When a schedule is due.
pub(crate) fn times(row: &ScheduleRow) -> Result<cron::Schedule> {
    let schedule = cron::Schedule::expression(&row.cron)
        .or_else(|error| {
            // DBOS's clients also have expressions of five fields, without seconds.
            if row.cron.split_whitespace().count() == 5 {
                cron::Schedule::expression(&format!("0 {}", row.cron))
            } else {
                Err(error)
            }
        })
        .map_err(Error::from)?;
    match &row.time_zone {
        Some(zone) => schedule.in_time_zone(zone).map_err(Error::from),
        None => Ok(schedule),
    }
}

/// The workflow that a schedule starts for a moment.
pub(crate) fn tick(row: &ScheduleRow, at: DateTime<Utc>, id: String) -> Result<NewRun> {
    let context: Value = serde_json::from_str(&row.context).unwrap_or(Value::Null);
    let input = crate::codec::encode_input(&Tick { scheduled_time: at, context })?;
    let mut new = Start::new().id(id).row(&row.workflow, input)?;
    new.queue = Some(row.queue.clone().unwrap_or_else(|| INTERNAL_QUEUE.to_owned()));
    new.schedule = Some(row.name.clone());
    new.class.clone_from(&row.class);
    new.application.clone_from(&row.application);
    Ok(new)
}

/// The id of the workflow for a moment: the same in each process, so that one is started.
pub(crate) fn tick_id(name: &str, at: DateTime<Utc>) -> String {
    format!("sched-{name}-{}", at.to_rfc3339_opts(SecondsFormat::Secs, true))
}

impl Client {
    /// Stores a schedule. One of that name is replaced, and stays paused if it is.
    ///
    /// # Errors
    /// When the expression or the time zone is wrong, or the storage fails.
    pub async fn set_schedule(&self, schedule: &Schedule) -> Result<()> {
        crate::ctx::outside_transactions("changing a schedule")?;
        let mut row = schedule.row.clone();
        text("the schedule's name", &row.name)?;
        times(&row)?;
        row.application.clone_from(&self.application);
        self.store.put_schedule(&row).await?;
        if let Some(core) = &self.core {
            core.schedules_changed();
        }
        Ok(())
    }

    /// The schedules.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn schedules(&self) -> Result<Vec<ScheduleRow>> {
        self.store.schedules().await
    }

    /// Lets a schedule start nothing for now. Answers whether it is known.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn pause_schedule(&self, name: &str) -> Result<bool> {
        self.change_schedule(name, &ScheduleChange::Pause).await
    }

    /// Lets a paused schedule go on. Answers whether it is known.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn resume_schedule(&self, name: &str) -> Result<bool> {
        self.change_schedule(name, &ScheduleChange::Resume).await
    }

    /// Forgets a schedule. What it has started goes on. Answers whether it was known.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn delete_schedule(&self, name: &str) -> Result<bool> {
        self.change_schedule(name, &ScheduleChange::Delete).await
    }

    async fn change_schedule(&self, name: &str, change: &ScheduleChange) -> Result<bool> {
        crate::ctx::outside_transactions("changing a schedule")?;
        let known = self.store.change_schedule(name, change).await?;
        if let Some(core) = &self.core {
            core.schedules_changed();
        }
        Ok(known)
    }

    /// Starts what a schedule starts, now.
    ///
    /// # Errors
    /// When there is no such schedule, or the storage fails.
    pub async fn trigger_schedule(&self, name: &str) -> Result<Handle<Value>> {
        let row = self.schedule(name).await?;
        let now = Utc::now();
        let id = format!("sched-{name}-trigger-{}", now.to_rfc3339_opts(SecondsFormat::Nanos, true));
        self.begin_tick(&row, now, id).await
    }

    /// Starts what a schedule would have started between two moments, both exclusive. What was started for a moment is not started again. Answers the
    /// handles, in order.
    ///
    /// # Errors
    /// When there is no such schedule, the window has more than 10 000 moments, or the storage fails.
    pub async fn backfill_schedule(
        &self,
        name: &str,
        from: DateTime<Utc>,
        until: DateTime<Utc>,
    ) -> Result<Vec<Handle<Value>>> {
        const MOST: usize = 10_000;
        let row = self.schedule(name).await?;
        let times = times(&row)?;
        let mut moments = Vec::new();
        let mut at = from;
        while let Some(next) = times.next_after(at).filter(|next| *next < until) {
            moments.push(next);
            at = next;
            if moments.len() > MOST {
                let problem = format!("has more than {MOST} moments; take a smaller window");
                return Err(Error::invalid("the window", &format!("{from} to {until}"), problem));
            }
        }
        let mut handles = Vec::with_capacity(moments.len());
        for at in moments {
            handles.push(self.begin_tick(&row, at, tick_id(name, at)).await?);
        }
        Ok(handles)
    }

    async fn schedule(&self, name: &str) -> Result<ScheduleRow> {
        let found = self.store.schedules().await?.into_iter().find(|row| row.name == name);
        found.ok_or_else(|| Error::invalid("the schedule", name, "is not known; `schedules` lists those that are"))
    }

    async fn begin_tick(&self, row: &ScheduleRow, at: DateTime<Utc>, id: String) -> Result<Handle<Value>> {
        crate::ctx::outside_transactions("starting what is scheduled")?;
        let mut new = tick(row, at, id)?;
        // It is for the latest version, as what a schedule starts by itself.
        new.version = self.latest_version().await?.map(|version| version.name);
        let workflow = Workflow::<(), Value>::named("");
        let handle = self.handle(workflow, &new.id);
        let queue = new.queue.clone();
        self.store.create(&[new]).await?;
        if let (Some(core), Some(queue)) = (&self.core, queue) {
            core.wake_queue(&queue);
        }
        Ok(handle)
    }
}

/// How long after its moment a schedule is still due without `catch_up`: as long as an engine may take to look.
pub(crate) const LATE: Duration = Duration::from_secs(30);
