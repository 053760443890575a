//! Today's code against a recorded history.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Crash, Write};
use crate::ctx::Ctx;
use crate::engine::Engine;
use crate::error::Result;
use crate::failure::{Envelope, WorkflowError};
use crate::store::{Export, INTERNAL_QUEUE, MemoryStore, Status, Store, Transition};

/// Where code does something else than what is recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Difference {
    /// A step has another name.
    Renamed {
        /// The step's number.
        step: i32,
        /// The name that is recorded.
        recorded: String,
        /// The name that the code has.
        found: String,
    },
    /// The code does more than what is recorded of a workflow that has ended.
    Longer {
        /// The number of the first step that is not recorded.
        step: i32,
        /// Its name.
        found: String,
    },
    /// The code ends before it comes to what is recorded.
    Shorter {
        /// The number of the first step that it does not come to.
        step: i32,
        /// Its name.
        recorded: String,
    },
    /// It comes to another end.
    OtherEnd {
        /// The end that is recorded: the output, or the failure.
        recorded: String,
        /// The end that the code comes to.
        found: String,
    },
}

/// Runs a workflow's function against what is recorded of one of its workflows, in memory and without any effect. Answers the first difference, if there is
/// one. Of a workflow that has not ended, what comes behind the record is not looked at.
///
/// # Errors
/// When the history cannot be read.
pub async fn check<F, Fut, I, O, E>(history: &Export, function: F) -> Result<Option<Difference>>
where
    F: Fn(Ctx, I) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = std::result::Result<O, E>> + Send + 'static,
    I: DeserializeOwned + Send + 'static,
    O: Serialize + DeserializeOwned + 'static,
    E: WorkflowError,
{
    // The engine's names live as long as the program; a test has few of them.
    let name: &'static str = history.run.name.clone().leak();
    let memory = MemoryStore::new();
    // What is written behind the record stays unwritten: the code is stopped there.
    let crash = Crash::at(Arc::new(memory.clone()), 0, false);
    let mut replayed = history.clone();
    let run = &mut replayed.run;
    (run.status, run.version, run.application) = (Status::Cancelled, None, None);
    memory.import(&[replayed]).await?;
    let ids = vec![history.run.id.clone()];
    memory.transition(&Transition::Resume { ids, queue: INTERNAL_QUEUE.to_owned() }).await?;
    let reached = Arc::new(AtomicI32::new(0));
    let mut builder = Engine::builder().store(Arc::new(crash.clone())).max_attempts(None);
    let end = Arc::clone(&reached);
    builder.register(name, move |ctx: Ctx, input: I| {
        let (work, end) = (function(ctx.clone(), input), Arc::clone(&end));
        async move {
            let result = work.await;
            end.store(ctx.next_step(), Ordering::Release);
            result
        }
    });
    let engine = builder.launch().await?;
    crash.crashed().await;
    drop(engine);
    Ok(compare(history, crash.last(), reached.load(Ordering::Acquire)))
}

fn compare(history: &Export, write: Option<Write>, reached: i32) -> Option<Difference> {
    let ended = matches!(history.run.status, Status::Success | Status::Error);
    match write? {
        Write::Start { .. } => None,
        Write::Step { number, name } => {
            if let Some(step) = history.steps.iter().find(|step| step.number >= number) {
                return Some(Difference::Renamed { step: step.number, recorded: step.name.clone(), found: name });
            }
            ended.then_some(Difference::Longer { step: number, found: name })
        }
        Write::End { output, error } => {
            if let Some(renamed) = error.as_deref().and_then(renamed) {
                return Some(renamed);
            }
            if let Some(step) = history.steps.iter().find(|step| step.number >= reached) {
                return Some(Difference::Shorter { step: step.number, recorded: step.name.clone() });
            }
            let found = output.or(error).unwrap_or_default();
            let recorded = history.run.output.clone().or_else(|| history.run.error.clone()).unwrap_or_default();
            (ended && recorded != found).then_some(Difference::OtherEnd { recorded, found })
        }
    }
}

/// The difference that the engine itself has found.
fn renamed(error: &str) -> Option<Difference> {
    let envelope: Envelope = serde_json::from_str(error).ok()?;
    let data = envelope.data.filter(|_| envelope.name == "UnexpectedStep")?;
    let text = |key: &str| data.get(key)?.as_str().map(str::to_owned);
    let step = i32::try_from(data.get("step")?.as_i64()?).ok()?;
    Some(Difference::Renamed { step, recorded: text("recorded")?, found: text("found")? })
}
