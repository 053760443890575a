//! Payloads that name their task.

use serde::Serialize;

use super::JobSpec;

/// A payload that names the task it is for. A program that only adds jobs needs the payload's type, and none of the code that runs
/// them.
///
/// Derive it (`#[derive(TaskPayload)]` of the crate `backfill`), or write it:
///
/// ```
/// use backfill_core::job::{JobSpec, TaskPayload};
///
/// #[derive(serde::Serialize)]
/// struct SendInvoice {
///     order: u64,
/// }
///
/// impl TaskPayload for SendInvoice {
///     const TASK: &'static str = "send_invoice";
///
///     fn defaults(spec: JobSpec) -> JobSpec {
///         spec.serial_queue("billing").max_attempts(5)
///     }
/// }
///
/// let spec = JobSpec::from(SendInvoice { order: 17 }).key("invoice 17");
/// assert_eq!(spec.task(), "send_invoice");
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not name the task that it is a payload for",
    label = "derive `TaskPayload` for this type, or add a `JobSpec::new(\"task\", payload)`"
)]
pub trait TaskPayload: Serialize {
    /// The task's name: 1 to 128 characters, the same in every language.
    const TASK: &'static str;

    /// How jobs with this payload run unless whoever adds one says otherwise. Default: as [`JobSpec::new`] makes them.
    fn defaults(spec: JobSpec) -> JobSpec {
        spec
    }
}

impl<P: TaskPayload> From<P> for JobSpec {
    fn from(payload: P) -> Self {
        P::defaults(Self::new(P::TASK, payload))
    }
}
