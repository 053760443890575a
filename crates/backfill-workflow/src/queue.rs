//! Queues of workflows.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::options::{millis, text};
use crate::store::{INTERNAL_QUEUE, QueueRow, Rate};

/// A queue's settings: how many of its workflows run at once, and how many may start in a period.
///
/// They are kept in the database, hold for all processes, and may be changed while those run.
///
/// ```
/// use std::time::Duration;
///
/// use backfill_workflow::Queue;
///
/// let mails = Queue::new("mails").worker_concurrency(10).rate(50, Duration::from_secs(60));
/// # let _ = mails;
/// ```
#[derive(Clone, Debug)]
pub struct Queue {
    row: QueueRow,
    keep: bool,
}

impl Queue {
    /// A queue without limits.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        let row = QueueRow {
            name: name.into(),
            concurrency: None,
            worker_concurrency: None,
            rate: None,
            partitioned: false,
            partition_concurrency: None,
            partition_worker_concurrency: None,
            partition_rate: None,
            polling: 1000,
        };
        Self { row, keep: false }
    }

    /// How many run at once, in all processes.
    #[must_use]
    pub fn concurrency(mut self, workflows: u32) -> Self {
        self.row.concurrency = Some(workflows.into());
        self
    }

    /// How many run at once in each process.
    #[must_use]
    pub fn worker_concurrency(mut self, workflows: u32) -> Self {
        self.row.worker_concurrency = Some(workflows.into());
        self
    }

    /// How many start in a period, in all processes.
    #[must_use]
    pub fn rate(mut self, workflows: u32, period: Duration) -> Self {
        self.row.rate = Some(Rate { limit: workflows.into(), period: millis(period) });
        self
    }

    /// Each workflow names a part of the queue, and the limits of [`partition_concurrency`](Self::partition_concurrency) and its like hold for
    /// each part.
    #[must_use]
    pub fn partitioned(mut self) -> Self {
        self.row.partitioned = true;
        self
    }

    /// How many of each part run at once, in all processes.
    #[must_use]
    pub fn partition_concurrency(mut self, workflows: u32) -> Self {
        self.row.partition_concurrency = Some(workflows.into());
        self
    }

    /// How many of each part run at once in each process.
    #[must_use]
    pub fn partition_worker_concurrency(mut self, workflows: u32) -> Self {
        self.row.partition_worker_concurrency = Some(workflows.into());
        self
    }

    /// How many of each part start in a period, in all processes.
    #[must_use]
    pub fn partition_rate(mut self, workflows: u32, period: Duration) -> Self {
        self.row.partition_rate = Some(Rate { limit: workflows.into(), period: millis(period) });
        self
    }

    /// How often each process looks for work that nobody told it of: once a second by default.
    #[must_use]
    pub fn poll_interval(mut self, interval: Duration) -> Self {
        self.row.polling = millis(interval);
        self
    }

    /// Settings that are in the database already stay as they are.
    #[must_use]
    pub fn keep_existing(mut self) -> Self {
        self.keep = true;
        self
    }

    pub(crate) fn keeps_existing(&self) -> bool {
        self.keep
    }

    pub(crate) fn name(&self) -> &str {
        &self.row.name
    }

    /// The row, if the settings make sense together.
    pub(crate) fn checked(&self) -> Result<&QueueRow> {
        let row = &self.row;
        text("the queue", &row.name)?;
        if row.name == INTERNAL_QUEUE {
            return Err(Error::invalid("the queue", &row.name, "is the engine's own; choose another name"));
        }
        for (what, value) in [
            ("concurrency", row.concurrency),
            ("worker concurrency", row.worker_concurrency),
            ("partition concurrency", row.partition_concurrency),
            ("partition worker concurrency", row.partition_worker_concurrency),
            ("rate", row.rate.map(|rate| rate.limit)),
            ("period of the rate", row.rate.map(|rate| rate.period)),
            ("partition rate", row.partition_rate.map(|rate| rate.limit)),
            ("period of the partition rate", row.partition_rate.map(|rate| rate.period)),
            ("poll interval", Some(row.polling)),
        ] {
            if value.is_some_and(|value| value <= 0) {
                return Err(Error::invalid(what, "0", format!("of the queue {:?} must be greater", row.name)));
            }
        }
        for (worker, all) in
            [(row.worker_concurrency, row.concurrency), (row.partition_worker_concurrency, row.partition_concurrency)]
        {
            if let (Some(worker), Some(all)) = (worker, all)
                && worker > all
            {
                let problem = format!("of the queue {:?} is more than all processes together may run: {all}", row.name);
                return Err(Error::invalid("worker concurrency", &worker.to_string(), problem));
            }
        }
        let parts = row.partition_concurrency.is_some()
            || row.partition_worker_concurrency.is_some()
            || row.partition_rate.is_some();
        if parts && !row.partitioned {
            return Err(Error::invalid(
                "the queue",
                &row.name,
                "has limits for its parts and no parts; add `partitioned()`",
            ));
        }
        Ok(row)
    }
}
