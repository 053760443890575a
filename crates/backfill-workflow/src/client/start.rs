//! Starting workflows.

use std::sync::{Arc, OnceLock};

#[cfg(any(feature = "postgres", feature = "sqlite"))]
use backfill::client::Within;
use serde::Serialize;

use super::{Client, Handle};
use crate::codec;
use crate::error::{Error, Result};
use crate::options::{OnDuplicate, Start};
use crate::store::{self, Created, NewRun, Status};
use crate::workflow::Workflow;

impl Client {
    /// Starts a workflow. With an engine and no queue in the options, it begins at once in this process; otherwise it waits in its queue.
    ///
    /// Starting it again with the same id starts nothing, and answers the handle of the same workflow.
    ///
    /// # Errors
    /// When an option is wrong, the id belongs to a workflow of another name, the deduplication id is taken, or the storage fails.
    pub async fn start<I: Serialize, O, E>(
        &self,
        workflow: Workflow<I, O, E>,
        input: &I,
        options: Start,
    ) -> Result<Handle<O, E>> {
        crate::ctx::outside_transactions("starting a workflow by a client, and not with `start_in`,")?;
        let mut row = self.row(workflow.name(), input, &options)?;
        let Some(core) = self.core.as_ref().filter(|core| options.queue.is_none() && runs(core, &options)) else {
            if self.core.is_some() && options.queue.is_none() && options.version.is_none() {
                return Err(Error::NotRegistered { name: workflow.name().to_owned() });
            }
            return self.enqueue(workflow, row, &options).await;
        };
        if !core.registry.contains_key(workflow.name()) {
            return Err(Error::NotRegistered { name: workflow.name().to_owned() });
        }
        row.queue = None;
        row.version = Some(core.settings.version.clone());
        row.start = Some(store::Execution { executor: core.settings.executor.clone(), owner: crate::id::token() });
        let outcome = Arc::new(OnceLock::new());
        match core.create_and_begin(row.clone(), Arc::clone(&outcome)).await? {
            Created::New { .. } => Ok(self.local_handle(&row.id, outcome)),
            created => self.known(workflow, &row, created, &options),
        }
    }

    /// Starts a workflow in the caller's own transaction: it is there when, and if, that commits. It waits in its queue (the engine's own, if the options
    /// name none).
    ///
    /// The connection is one of the database that keeps the workflows: `&mut tx`.
    ///
    /// # Errors
    /// As [`start`](Self::start), or when the storage has no such transactions.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub async fn start_in<'c, I: Serialize, O, E>(
        &self,
        within: impl Into<Within<'c>>,
        workflow: Workflow<I, O, E>,
        input: &I,
        options: Start,
    ) -> Result<Handle<O, E>> {
        let row = self.row(workflow.name(), input, &options)?;
        // Nothing is asked of the database beside the caller's transaction, which may hold the last connection.
        if let Some(queues) =
            self.core.as_ref().and_then(|core| core.queues().as_ref().map(|(_, known)| Arc::clone(known)))
        {
            fits(&queues, &row)?;
        }
        match self.store.create_within(within.into(), &row).await? {
            Created::New { .. } => Ok(self.handle(workflow, &row.id)),
            created => self.known(workflow, &row, created, &options),
        }
    }

    pub(super) fn row<I: Serialize>(&self, name: &str, input: &I, options: &Start) -> Result<NewRun> {
        let mut row = options.row(name, codec::encode_input(input)?)?;
        row.application.clone_from(&self.application);
        Ok(row)
    }

    pub(super) async fn enqueue<I, O, E>(
        &self,
        workflow: Workflow<I, O, E>,
        row: NewRun,
        options: &Start,
    ) -> Result<Handle<O, E>> {
        crate::ctx::outside_transactions("starting a workflow by a client, and not with `start_in`,")?;
        self.check_partition(&row).await?;
        let created = if let Some(core) = &self.core {
            core.writer.create(row.clone()).await?
        } else {
            self.writer().create(row.clone()).await?
        };
        match created {
            Created::New { .. } => {
                self.tell(&row);
                Ok(self.handle(workflow, &row.id))
            }
            created => self.known(workflow, &row, created, options),
        }
    }

    /// A partitioned queue's workflows name a part, and no others do.
    pub(crate) async fn check_partition(&self, row: &NewRun) -> Result<()> {
        if row.queue.as_deref().is_none_or(|queue| queue == store::INTERNAL_QUEUE) {
            return Ok(());
        }
        fits(&self.known_queues().await?, row)
    }

    /// Tells this process's engine of new work.
    fn tell(&self, row: &NewRun) {
        if let Some(core) = &self.core {
            match (row.delay, &row.queue) {
                (Some(delay), _) => core.note_due(core.now().saturating_add(delay)),
                (None, Some(queue)) => core.wake_queue(queue),
                (None, None) => {}
            }
        }
    }

    /// What a start answers that stored nothing.
    fn known<I, O, E>(
        &self,
        workflow: Workflow<I, O, E>,
        row: &NewRun,
        created: Created,
        options: &Start,
    ) -> Result<Handle<O, E>> {
        match created {
            Created::Exists(existing) if existing.name != row.name => {
                Err(Error::OtherWorkflow { id: row.id.clone(), recorded: existing.name, found: row.name.clone() })
            }
            Created::Exists(existing) if existing.status == Status::Exhausted => {
                Err(Error::Exhausted { id: row.id.clone() })
            }
            Created::New { .. } | Created::Exists(_) => Ok(self.handle(workflow, &row.id)),
            Created::Moved { id } => Ok(self.handle(workflow, &id)),
            Created::Duplicate { holder } if options.on_duplicate == OnDuplicate::ReturnExisting => {
                Ok(self.handle(workflow, &holder))
            }
            Created::Duplicate { holder } => Err(Error::Duplicate {
                queue: row.queue.clone().unwrap_or_default(),
                deduplication: row.deduplication.clone().unwrap_or_default(),
                holder,
            }),
        }
    }
}

/// Whether a workflow names a part if its queue has parts, and none if it has none.
fn fits(queues: &[store::QueueRow], row: &NewRun) -> Result<()> {
    let known = queues.iter().find(|known| Some(&known.name) == row.queue.as_ref());
    // One that nobody has configured is not known to have parts.
    let Some(known) = known else { return Ok(()) };
    match (known.partitioned, &row.partition) {
        (true, None) => {
            Err(Error::invalid("the queue", &known.name, "is partitioned; name a part with `Start::partition`"))
        }
        (false, Some(part)) => {
            let problem = format!("cannot be: the queue {:?} is not partitioned", known.name);
            Err(Error::invalid("the partition", part, problem))
        }
        _ => Ok(()),
    }
}

/// Whether this process is the one to begin it.
fn runs(core: &crate::engine::core::Core, options: &Start) -> bool {
    options.version.as_ref().is_none_or(|version| *version == core.settings.version)
}
