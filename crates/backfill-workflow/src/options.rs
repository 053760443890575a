//! How a workflow is started: one set of options for every way.

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::store::{Debounce, INTERNAL_QUEUE, Ms, NewRun};

/// The longest id, and the longest of all other names, in bytes.
const LONGEST: usize = 1000;

/// What happens if another workflow in the queue has the deduplication id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDuplicate {
    /// The start is refused with [`Error::Duplicate`].
    #[default]
    Reject,
    /// The start answers that workflow's handle.
    ReturnExisting,
}

/// How a workflow is started. The same options serve starts, queued starts, children, schedules and forks.
///
/// ```
/// use std::time::Duration;
///
/// use backfill_workflow::Start;
///
/// let options = Start::new().id("order-17").queue("orders").priority(5).timeout(Duration::from_secs(3600));
/// # let _ = options;
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Start {
    /// The workflow's id. Starting it again with the same id answers the same workflow. By default a new one; a child's is its parent's with
    /// the number of the step.
    pub id: Option<String>,
    /// The queue. By default a workflow begins at once in the process that starts it.
    pub queue: Option<String>,
    /// How long it waits before it goes to its queue. Needs a queue.
    pub delay: Option<Duration>,
    /// Lower runs first: 0 by default. Needs a queue.
    pub priority: Option<i32>,
    /// What must be unique among the workflows in the queue that have not ended. Needs a queue.
    pub deduplication: Option<String>,
    /// What happens if it is not.
    pub on_duplicate: OnDuplicate,
    /// The part of a partitioned queue.
    pub partition: Option<String>,
    /// How long it may run, from when it begins. Then it is cancelled. A child also ends with its parent's time.
    pub timeout: Option<Duration>,
    /// A child: its parent's deadline is not its own.
    pub detached: bool,
    /// The version of the program that is to run it. By default, what is begun at once has that of its process, and what is queued goes
    /// to the latest.
    pub version: Option<String>,
    /// Who asks for it. Children inherit it.
    pub user: Option<String>,
    /// The role in which they ask. Children inherit it.
    pub role: Option<String>,
    /// Their roles. Children inherit them.
    pub roles: Option<Vec<String>>,
    /// The class of a workflow of another language.
    pub class: Option<String>,
    /// The instance of a workflow of another language.
    pub config: Option<String>,
    /// Whatever is to be known of it.
    pub attributes: Option<Value>,
}

macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident: $type:ty = $value:ident => $set:expr;)*) => {
        $($(#[$doc])* #[must_use] pub fn $name(mut self, $value: $type) -> Self { self.$name = $set; self })*
    };
}

impl Start {
    /// A start at once, in this process, under a new id.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    setters! {
        /// Sets [`Start::id`].
        id: impl Into<String> = id => Some(id.into());
        /// Sets [`Start::queue`].
        queue: impl Into<String> = queue => Some(queue.into());
        /// Sets [`Start::delay`].
        delay: Duration = delay => Some(delay);
        /// Sets [`Start::priority`].
        priority: i32 = priority => Some(priority);
        /// Sets [`Start::deduplication`].
        deduplication: impl Into<String> = id => Some(id.into());
        /// Sets [`Start::on_duplicate`].
        on_duplicate: OnDuplicate = what => what;
        /// Sets [`Start::partition`].
        partition: impl Into<String> = key => Some(key.into());
        /// Sets [`Start::timeout`].
        timeout: Duration = timeout => Some(timeout);
        /// Sets [`Start::version`].
        version: impl Into<String> = version => Some(version.into());
        /// Sets [`Start::user`].
        user: impl Into<String> = user => Some(user.into());
        /// Sets [`Start::role`].
        role: impl Into<String> = role => Some(role.into());
        /// Sets [`Start::class`].
        class: impl Into<String> = class => Some(class.into());
        /// Sets [`Start::config`].
        config: impl Into<String> = config => Some(config.into());
    }

    /// Sets [`Start::roles`].
    #[must_use]
    pub fn roles<S: Into<String>>(mut self, roles: impl IntoIterator<Item = S>) -> Self {
        self.roles = Some(roles.into_iter().map(Into::into).collect());
        self
    }

    /// Sets [`Start::detached`].
    #[must_use]
    pub fn detached(mut self) -> Self {
        self.detached = true;
        self
    }

    /// Sets [`Start::attributes`]. What cannot be serialized is left out.
    #[must_use]
    pub fn attributes<T: Serialize + ?Sized>(mut self, attributes: &T) -> Self {
        self.attributes = serde_json::to_value(attributes).ok();
        self
    }

    /// The row of a workflow that is started so, and not begun.
    pub(crate) fn row(&self, name: &str, input: String) -> Result<NewRun> {
        self.check(name)?;
        Ok(NewRun {
            id: self.id.clone().unwrap_or_else(crate::id::fresh),
            name: name.to_owned(),
            input,
            creator: crate::id::token(),
            start: None,
            queue: Some(self.queue.clone().unwrap_or_else(|| INTERNAL_QUEUE.to_owned())),
            delay: self.delay.map(millis),
            partition: self.partition.clone(),
            priority: self.priority.unwrap_or(0),
            deduplication: self.deduplication.clone(),
            version: self.version.clone(),
            timeout: self.timeout.map(millis),
            user: self.user.clone(),
            role: self.role.clone(),
            roles: self.roles.as_ref().map(|roles| Value::from(roles.clone()).to_string()),
            class: self.class.clone(),
            config: self.config.clone(),
            attributes: self.attributes.clone(),
            ..NewRun::default()
        })
    }

    /// That further calls with the key move it.
    pub(crate) fn debounced(mut row: NewRun, key: &str, delay: Duration, at_most: Option<Duration>) -> NewRun {
        row.deduplication = Some(format!("{}-{key}", row.name));
        let delay = at_most.map_or(delay, |at_most| delay.min(at_most));
        row.delay = Some(millis(delay));
        row.debounce = Some(Debounce { at_most: at_most.map(millis) });
        row
    }

    fn check(&self, name: &str) -> Result<()> {
        text("the workflow's name", name)?;
        for (what, value) in [
            ("the workflow's id", &self.id),
            ("the queue", &self.queue),
            ("the deduplication id", &self.deduplication),
            ("the partition", &self.partition),
            ("the version", &self.version),
            ("the user", &self.user),
            ("the role", &self.role),
        ] {
            if let Some(value) = value {
                text(what, value)?;
            }
        }
        if self.queue.is_none() {
            let needs = [
                ("the delay", self.delay.map(|delay| format!("{delay:?}"))),
                ("the priority", self.priority.map(|priority| priority.to_string())),
                ("the deduplication id", self.deduplication.clone()),
                ("the partition", self.partition.clone()),
            ];
            for (what, value) in needs {
                if let Some(value) = value {
                    return Err(Error::invalid(what, &value, "needs a queue; name one with `Start::queue`"));
                }
            }
        }
        if let (Some(key), Some(partition)) = (&self.deduplication, &self.partition) {
            let problem =
                format!("cannot be with the partition {partition:?}: a partitioned queue has no deduplication");
            return Err(Error::invalid("the deduplication id", key, problem));
        }
        Ok(())
    }
}

/// Whether a name can be stored.
pub(crate) fn text(what: &'static str, value: &str) -> Result<()> {
    if value.is_empty() {
        return Err(Error::invalid(what, value, "must not be empty"));
    }
    if value.len() > LONGEST {
        return Err(Error::invalid(what, value, format!("has {} bytes; {LONGEST} are allowed", value.len())));
    }
    if value.contains('\0') {
        return Err(Error::invalid(what, value, "contains a NUL character"));
    }
    Ok(())
}

pub(crate) fn millis(duration: Duration) -> Ms {
    Ms::try_from(duration.as_millis()).unwrap_or(Ms::MAX / 4).min(Ms::MAX / 4)
}
