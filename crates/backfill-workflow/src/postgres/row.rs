//! A workflow's row, as statements answer it.

use serde_json::Value;

use crate::error::{Error, Result};
use crate::store::{Ms, Run, Status};

/// The row, with the names of the table's columns but for what is put together.
pub(super) struct RunRow {
    pub(super) workflow_uuid: String,
    pub(super) status: Option<String>,
    pub(super) name: Option<String>,
    pub(super) input: Option<String>,
    pub(super) output: Option<String>,
    pub(super) error: Option<String>,
    pub(super) serialization: Option<String>,
    pub(super) executor_id: Option<String>,
    pub(super) owner_xid: Option<String>,
    pub(super) creator_xid: Option<String>,
    pub(super) application_version: Option<String>,
    pub(super) application_name: Option<String>,
    pub(super) queue_name: Option<String>,
    pub(super) queue_partition_key: Option<String>,
    pub(super) priority: i32,
    pub(super) deduplication_id: Option<String>,
    pub(super) recovery_attempts: Option<i64>,
    pub(super) parent_workflow_id: Option<String>,
    pub(super) schedule_name: Option<String>,
    pub(super) workflow_timeout_ms: Option<i64>,
    pub(super) workflow_deadline_epoch_ms: Option<i64>,
    pub(super) delay_until_epoch_ms: Option<i64>,
    pub(super) created_at: Ms,
    pub(super) updated_at: Ms,
    pub(super) started_at_epoch_ms: Option<i64>,
    pub(super) completed_at: Option<i64>,
    pub(super) forked_from: Option<String>,
    pub(super) was_forked_from: bool,
    pub(super) rate_limited: bool,
    pub(super) is_debounced: bool,
    pub(super) debounce_deadline_epoch_ms: Option<i64>,
    pub(super) authenticated_user: Option<String>,
    pub(super) assumed_role: Option<String>,
    pub(super) authenticated_roles: Option<String>,
    pub(super) class_name: Option<String>,
    pub(super) config_name: Option<String>,
    pub(super) attributes: Option<String>,
}

impl RunRow {
    pub(super) fn run(self) -> Result<Run> {
        let word = self.status.unwrap_or_default();
        let status = Status::parse(&word).ok_or_else(|| {
            Error::decode(format!("the status of the workflow {:?}", self.workflow_uuid), format!("{word:?} is none"))
        })?;
        let attributes = self.attributes.and_then(|text| serde_json::from_str::<Value>(&text).ok());
        Ok(Run {
            id: self.workflow_uuid,
            status,
            name: self.name.unwrap_or_default(),
            input: self.input,
            output: self.output,
            error: self.error,
            format: self.serialization,
            executor: self.executor_id,
            owner: self.owner_xid,
            creator: self.creator_xid,
            version: self.application_version,
            application: self.application_name,
            queue: self.queue_name,
            partition: self.queue_partition_key,
            priority: self.priority,
            deduplication: self.deduplication_id,
            attempts: self.recovery_attempts.unwrap_or(0),
            parent: self.parent_workflow_id,
            schedule: self.schedule_name,
            timeout: self.workflow_timeout_ms,
            deadline: self.workflow_deadline_epoch_ms,
            delay_until: self.delay_until_epoch_ms,
            created_at: self.created_at,
            updated_at: self.updated_at,
            started_at: self.started_at_epoch_ms,
            completed_at: self.completed_at,
            forked_from: self.forked_from,
            was_forked_from: self.was_forked_from,
            rate_limited: self.rate_limited,
            debounced: self.is_debounced,
            debounce_deadline: self.debounce_deadline_epoch_ms,
            user: self.authenticated_user,
            role: self.assumed_role,
            roles: self.authenticated_roles,
            class: self.class_name,
            config: self.config_name,
            attributes,
        })
    }
}

/// The rows that can be read. One that another library has given a status of its own spoils no list.
pub(super) fn readable(rows: Vec<RunRow>) -> Vec<Run> {
    let runs = rows.into_iter().filter_map(|row| match row.run() {
        Ok(run) => Some(run),
        Err(error) => {
            tracing::warn!(%error, "a workflow's row is passed over");
            None
        }
    });
    runs.collect()
}
