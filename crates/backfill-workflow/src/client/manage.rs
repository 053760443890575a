//! Steering workflows: cancel, resume, fork, delay, delete.

use std::collections::HashSet;
use std::time::Duration;

use super::{Client, Handle};
use crate::error::{Error, Result};
use crate::failure::Failure;
use crate::options::{Start, millis};
use crate::store::{Export, Filter, Fork, INTERNAL_QUEUE, Moved, Ms, Run, Status, StepRow, Transition};
use crate::workflow::Workflow;

/// Where a fork begins to run anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForkFrom {
    /// At the step with this number.
    Step(i32),
    /// At the first step of this name.
    Named(String),
    /// At the last step that is recorded as failed.
    LastFailure,
    /// At the last step.
    LastStep,
}

impl Client {
    /// Cancels workflows that have not ended. Answers which; ids that are not there, or have ended, are passed over.
    ///
    /// A running one hears it at once in its sleep, its step, or wherever it waits, in whichever process it is.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn cancel<S: Into<String>>(&self, ids: impl IntoIterator<Item = S>) -> Result<Vec<String>> {
        let ids: Vec<String> = ids.into_iter().map(Into::into).collect();
        self.cancelled(&Transition::Cancel { ids }).await
    }

    /// Cancels workflows with all that they have started, and those have started.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn cancel_with_children<S: Into<String>>(&self, ids: impl IntoIterator<Item = S>) -> Result<Vec<String>> {
        let ids = self.with_descendants(ids.into_iter().map(Into::into).collect()).await?;
        self.cancel(ids).await
    }

    /// Cancels whatever has not ended and was stored before this moment.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn cancel_all_before(&self, before: Ms) -> Result<Vec<String>> {
        self.cancelled(&Transition::CancelBefore(before)).await
    }

    async fn cancelled(&self, transition: &Transition) -> Result<Vec<String>> {
        crate::ctx::outside_transactions("cancelling")?;
        let moved = self.store.transition(transition).await?;
        if let Some(core) = &self.core {
            for one in &moved {
                core.steered(&one.id, one.owner.as_deref(), true);
            }
        }
        Ok(moved.into_iter().map(|one| one.id).collect())
    }

    /// Lets workflows go on that were cancelled, or were begun too often, from where they were; also those that wait: without their delay. Their attempts count
    /// anew. Answers which; those that have answered or failed are passed over.
    ///
    /// They go to this queue, or to the engine's own. One that is running goes there too, and its execution loses it.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn resume<S: Into<String>>(
        &self,
        ids: impl IntoIterator<Item = S>,
        queue: Option<&str>,
    ) -> Result<Vec<String>> {
        let ids = ids.into_iter().map(Into::into).collect();
        let queue = queue.unwrap_or(INTERNAL_QUEUE).to_owned();
        Ok(self.requeued(&Transition::Resume { ids, queue }).await?.into_iter().map(|one| one.id).collect())
    }

    /// Puts back what these executors were running, as if they were known to be dead. For executors that hold no lease, such as those of
    /// DBOS's libraries; those of this library are missed by themselves. Answers which.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn recover<S: Into<String>>(
        &self,
        executors: impl IntoIterator<Item = S>,
        version: Option<&str>,
    ) -> Result<Vec<String>> {
        let executors = executors.into_iter().map(Into::into).collect();
        let transition = Transition::Recover { executors, version: version.map(str::to_owned) };
        Ok(self.requeued(&transition).await?.into_iter().map(|one| one.id).collect())
    }

    async fn requeued(&self, transition: &Transition) -> Result<Vec<Moved>> {
        crate::ctx::outside_transactions("resuming")?;
        let moved = self.store.transition(transition).await?;
        if let Some(core) = &self.core {
            for one in &moved {
                core.steered(&one.id, one.owner.as_deref(), false);
                if let Some(queue) = &one.queue {
                    core.wake_queue(queue);
                }
            }
        }
        Ok(moved)
    }

    /// Changes when a workflow that waits for its delay goes to its queue: so long from now. Answers whether it waits.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn set_delay(&self, id: &str, delay: Duration) -> Result<bool> {
        crate::ctx::outside_transactions("changing a delay")?;
        let until = self.store.now().await?.saturating_add(millis(delay));
        let moved = self.store.transition(&Transition::Delay { id: id.to_owned(), until }).await?;
        if let Some(core) = &self.core {
            core.note_due(until);
        }
        Ok(!moved.is_empty())
    }

    /// Starts a workflow that begins like this one: what it has recorded before the given step is its own, and from there on it runs anew. The source stays as it
    /// is. Of the options, `id`, `queue`, `partition` and `version` hold.
    ///
    /// # Errors
    /// [`Error::NoWorkflow`]; when no step is meant; or when the storage fails.
    pub async fn fork<I, O, E>(
        &self,
        workflow: Workflow<I, O, E>,
        id: &str,
        from: ForkFrom,
        options: Start,
    ) -> Result<Handle<O, E>> {
        let from = match from {
            ForkFrom::Step(step) => step,
            other => {
                let steps = self.store.steps(id).await?;
                let meant: Option<&StepRow> = match &other {
                    ForkFrom::Named(name) => steps.iter().find(|step| step.name == *name),
                    ForkFrom::LastFailure => steps.iter().rfind(|step| step.error.is_some()),
                    _ => steps.last(),
                };
                match meant {
                    Some(step) => step.number,
                    None => {
                        return Err(Error::invalid(
                            "the step to fork from",
                            &format!("{other:?}"),
                            format!("is not recorded of the workflow {id:?}"),
                        ));
                    }
                }
            }
        };
        let row = options.row(workflow.name(), String::new())?;
        let fork = Fork {
            source: id.to_owned(),
            id: row.id,
            from,
            version: options.version,
            queue: row.queue.unwrap_or_else(|| INTERNAL_QUEUE.to_owned()),
            partition: options.partition,
        };
        crate::ctx::outside_transactions("forking")?;
        if !self.store.fork(&fork).await? {
            return Err(Error::NoWorkflow { id: id.to_owned() });
        }
        if let Some(core) = &self.core {
            core.wake_queue(&fork.queue);
        }
        Ok(self.handle(workflow, &fork.id))
    }

    /// Deletes workflows with all that is theirs, and with `children` all that they have started. A running one ends at its next step. Answers which.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn delete<S: Into<String>>(
        &self,
        ids: impl IntoIterator<Item = S>,
        children: bool,
    ) -> Result<Vec<String>> {
        let mut ids: Vec<String> = ids.into_iter().map(Into::into).collect();
        if children {
            ids = self.with_descendants(ids).await?;
        }
        crate::ctx::outside_transactions("deleting")?;
        let gone = self.store.delete(&ids).await?;
        if let Some(core) = &self.core {
            for id in &gone {
                // The id is free: whoever ran it finds out.
                core.lose(id);
            }
        }
        Ok(gone)
    }

    /// These, with all that they have started, and those have started.
    async fn with_descendants(&self, ids: Vec<String>) -> Result<Vec<String>> {
        let mut all: Vec<String> = Vec::new();
        let mut known: HashSet<String> = ids.iter().cloned().collect();
        let mut generation = ids;
        while !generation.is_empty() {
            let filter = Filter { parents: generation.clone(), ..Filter::default() };
            all.append(&mut generation);
            let children = self.store.runs(&filter).await?.into_iter().map(|run| run.id);
            generation = children.filter(|id| known.insert(id.clone())).collect();
        }
        Ok(all)
    }

    /// A workflow with all that is its own, to be kept or taken elsewhere.
    ///
    /// # Errors
    /// [`Error::NoWorkflow`], or when the storage fails.
    pub async fn export(&self, id: &str) -> Result<Export> {
        let run: Run = self.get(id).await?;
        Ok(Export {
            run,
            steps: self.store.steps(id).await?,
            messages: self.store.messages(id).await?,
            events: self.store.events(id).await?,
            streams: self.store.stream(id, None, 0).await?,
        })
    }

    /// Stores exported workflows again, each in one write. What was running waits in its queue. Answers the ids that were there already: of those nothing is stored.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn import(&self, exports: &[Export]) -> Result<Vec<String>> {
        crate::ctx::outside_transactions("importing")?;
        let mut exports = exports.to_vec();
        for run in exports.iter_mut().map(|export| &mut export.run).filter(|run| run.status == Status::Pending) {
            // Nobody runs what is stored here: it waits to be run.
            run.status = Status::Enqueued;
            (run.owner, run.executor, run.started_at) = (None, None, None);
            run.queue.get_or_insert_with(|| INTERNAL_QUEUE.to_owned());
        }
        self.store.import(&exports).await
    }

    /// The untyped handle of a workflow, by its id.
    #[must_use]
    pub fn any_handle(&self, id: &str) -> Handle<serde_json::Value, Failure> {
        self.handle(Workflow::<(), _, _>::named(""), id)
    }
}
