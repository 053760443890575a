//! Recording steps, with what goes with them.

use std::any::Any;

use async_trait::async_trait;
use sqlx::{Acquire, Sqlite, SqliteConnection, Transaction};

use super::{SqliteStore, create, failed, now};
use crate::codec;
use crate::error::Result;
use crate::store::{
    Change, Checkpoint, Checkpointed, Effect, Encoded, Existing, NewMessage, Status, StepRow, StoreTransaction,
};

const ACTION: &str = "record a step";

/// Records steps in one transaction. What is not recorded leaves the others as they are.
pub(super) async fn checkpoint(store: &SqliteStore, checkpoints: &[Checkpoint]) -> Result<Vec<Checkpointed>> {
    let mut tx = store.write(ACTION).await?;
    let mut answers = Vec::with_capacity(checkpoints.len());
    for one in checkpoints {
        answers.push(apart(&mut tx, one).await.map_err(|error| failed(ACTION, error))?);
    }
    tx.commit().await.map_err(|error| failed(ACTION, error))?;
    for (one, answer) in checkpoints.iter().zip(&answers) {
        tell(store, one, answer);
    }
    Ok(answers)
}

/// In a savepoint of its own, if something goes with it.
async fn apart(connection: &mut SqliteConnection, one: &Checkpoint) -> Result<Checkpointed, sqlx::Error> {
    let Some(effect) = &one.effect else { return record(connection, one).await };
    let mut savepoint = connection.begin().await?;
    let answer = with_effect(&mut savepoint, one, effect).await?;
    if is_written(one, &answer) {
        savepoint.commit().await?;
    } else {
        savepoint.rollback().await?;
    }
    Ok(answer)
}

fn is_written(one: &Checkpoint, answer: &Checkpointed) -> bool {
    match (answer, &one.effect) {
        (Checkpointed::Written | Checkpointed::Received(_), _) => true,
        (Checkpointed::Child(created), Some(Effect::Child(child))) => created.is_kept(&child.name),
        _ => false,
    }
}

fn tell(store: &SqliteStore, one: &Checkpoint, answer: &Checkpointed) {
    if !is_written(one, answer) {
        return;
    }
    match &one.effect {
        Some(Effect::Send(message)) => {
            store.tell(Change::Message(format!("{}::{}", message.destination, message.topic)));
        }
        Some(Effect::Event { key, .. }) => store.tell(Change::Event(format!("{}::{key}", one.run))),
        Some(Effect::Append { key, .. }) => store.tell(Change::Stream(format!("{}::{key}", one.run))),
        Some(Effect::Child(child)) if child.status() == Status::Enqueued => {
            store.tell(Change::Queue(child.queue.clone().unwrap_or_default()));
        }
        _ => {}
    }
}

/// Records a step, if it is this execution's to record.
async fn record(connection: &mut SqliteConnection, one: &Checkpoint) -> Result<Checkpointed, sqlx::Error> {
    let step = &one.step;
    let written = sqlx::query!(
        "insert into operation_outputs (
             workflow_uuid, function_id, function_name, output, error, serialization, child_workflow_id, started_at_epoch_ms,
             completed_at_epoch_ms, application_name
         )
         select workflow_uuid, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, application_name from workflow_status
         where workflow_uuid = ?1 and status = 'PENDING' and owner_xid = ?2
         on conflict (workflow_uuid, function_id) do nothing",
        one.run,
        one.owner,
        step.number,
        step.name,
        step.output,
        step.error,
        step.format,
        step.child,
        step.started_at,
        step.completed_at,
    );
    if written.execute(&mut *connection).await?.rows_affected() > 0 {
        return Ok(Checkpointed::Written);
    }
    let row = sqlx::query!(
        r#"select status as "status!", name as "name!", owner_xid from workflow_status where workflow_uuid = ?"#,
        one.run,
    );
    let row = row.fetch_optional(&mut *connection).await?;
    // What is recorded is of interest to the execution that may write, and to no other: that one has to end.
    let mine = row.as_ref().is_some_and(|row| {
        row.status == Status::Pending.name() && row.owner_xid.as_deref() == Some(one.owner.as_str())
    });
    if mine && let Some(step) = recorded(connection, one).await? {
        return Ok(Checkpointed::Recorded(step));
    }
    let existing = row.map(|row| Existing {
        status: Status::parse(&row.status).unwrap_or(Status::Pending),
        name: row.name,
        owner: row.owner_xid,
    });
    Ok(Checkpointed::Refused(existing))
}

async fn recorded(connection: &mut SqliteConnection, one: &Checkpoint) -> Result<Option<StepRow>, sqlx::Error> {
    let row = sqlx::query_as!(
        StepRow,
        r#"select
               function_id as "number!: i32", function_name as "name!", output, error, serialization as format,
               child_workflow_id as child, started_at_epoch_ms as started_at, completed_at_epoch_ms as completed_at
           from operation_outputs where workflow_uuid = ? and function_id = ?"#,
        one.run,
        one.step.number,
    );
    row.fetch_optional(connection).await
}

async fn with_effect(
    connection: &mut SqliteConnection,
    one: &Checkpoint,
    effect: &Effect,
) -> Result<Checkpointed, sqlx::Error> {
    // What is received is part of the record, so it comes first.
    if let Effect::Receive { topic } = effect {
        return receive(connection, one, topic).await;
    }
    let plain = record(connection, one).await?;
    if plain != Checkpointed::Written {
        return Ok(plain);
    }
    let number = one.step.number;
    match effect {
        Effect::Send(message) => {
            if !send(connection, message).await? {
                return Ok(Checkpointed::NoDestination);
            }
        }
        Effect::Event { key, value } => {
            let event = sqlx::query!(
                "insert into workflow_events (workflow_uuid, key, value, serialization) values (?, ?, ?, ?)
                 on conflict (workflow_uuid, key) do update set value = excluded.value, serialization = excluded.serialization",
                one.run,
                key,
                value.text,
                value.format,
            );
            event.execute(&mut *connection).await?;
            let history = sqlx::query!(
                "insert into workflow_events_history (workflow_uuid, function_id, key, value, serialization) values (?, ?, ?, ?, ?)
                 on conflict (workflow_uuid, function_id, key) do update set value = excluded.value",
                one.run,
                number,
                key,
                value.text,
                value.format,
            );
            history.execute(connection).await?;
        }
        Effect::Append { key, value } => {
            let last = sqlx::query!(
                r#"select value, "offset" as place from streams where workflow_uuid = ? and key = ? order by "offset" desc limit 1"#,
                one.run,
                key,
            );
            let last = last.fetch_optional(&mut *connection).await?;
            if last.as_ref().is_some_and(|last| codec::is_closed(&last.value)) {
                return Ok(Checkpointed::StreamClosed);
            }
            let place = last.map_or(0, |last| last.place + 1);
            let written = sqlx::query!(
                r#"insert into streams (workflow_uuid, key, value, "offset", function_id, serialization) values (?, ?, ?, ?, ?, ?)"#,
                one.run,
                key,
                value.text,
                place,
                number,
                value.format,
            );
            written.execute(connection).await?;
        }
        Effect::Child(child) => return create::create_one(connection, child).await.map(Checkpointed::Child),
        // Only a storage that says so is asked to add jobs, and this one does not.
        _ => return Ok(Checkpointed::Refused(None)),
    }
    Ok(Checkpointed::Written)
}

/// Consumes the oldest message.
async fn receive(
    connection: &mut SqliteConnection,
    one: &Checkpoint,
    topic: &str,
) -> Result<Checkpointed, sqlx::Error> {
    let number = one.step.number;
    let message = sqlx::query!(
        r#"update notifications set consumed = true, consumed_by_function_id = ?3
           where message_uuid = (
               select message_uuid from notifications where destination_uuid = ?1 and topic = ?2 and not consumed
               order by created_at_epoch_ms, rowid limit 1
           )
           returning message as "message!", serialization"#,
        one.run,
        topic,
        number,
    );
    let Some(message) = message.fetch_optional(&mut *connection).await? else {
        // Whether it may write at all is asked by trying to.
        let mut attempt = connection.begin().await?;
        let answer = record(&mut attempt, one).await?;
        attempt.rollback().await?;
        return Ok(if answer == Checkpointed::Written { Checkpointed::NoMessage } else { answer });
    };
    let body = Encoded { text: message.message, format: message.serialization };
    let step = StepRow { output: Some(body.text.clone()), format: body.format.clone(), ..one.step.clone() };
    match record(connection, &Checkpoint { step, effect: None, ..one.clone() }).await? {
        Checkpointed::Written => Ok(Checkpointed::Received(body)),
        other => Ok(other),
    }
}

/// Sends a message. Answers whether the workflow exists.
pub(super) async fn send(connection: &mut SqliteConnection, message: &NewMessage) -> Result<bool, sqlx::Error> {
    let now = now();
    let sent = sqlx::query!(
        "insert into notifications (message_uuid, destination_uuid, topic, message, serialization, created_at_epoch_ms)
         select ?1, workflow_uuid, ?3, ?4, ?5, ?6 from workflow_status where workflow_uuid = ?2
         on conflict (message_uuid) do nothing",
        message.id,
        message.destination,
        message.topic,
        message.body.text,
        message.body.format,
        now,
    );
    if sent.execute(&mut *connection).await?.rows_affected() > 0 {
        return Ok(true);
    }
    let exists = sqlx::query_scalar!(
        r#"select exists (select 1 from workflow_status where workflow_uuid = ?) as "exists!: bool""#,
        message.destination,
    );
    exists.fetch_one(connection).await
}

/// A transaction for the user's own statements.
struct Ours {
    tx: Transaction<'static, Sqlite>,
}

pub(super) async fn begin(store: &SqliteStore) -> Result<Box<dyn StoreTransaction>> {
    Ok(Box::new(Ours { tx: store.write("begin a transaction").await? }))
}

#[async_trait]
impl StoreTransaction for Ours {
    fn connection(&mut self) -> &mut (dyn Any + Send) {
        &mut *self.tx
    }

    fn connection_ref(&self) -> &(dyn Any + Send) {
        &*self.tx
    }

    async fn commit(mut self: Box<Self>, one: &Checkpoint) -> Result<Checkpointed> {
        let answer = record(&mut self.tx, one).await.map_err(|error| failed(ACTION, error))?;
        let ended = if is_written(one, &answer) { self.tx.commit().await } else { self.tx.rollback().await };
        ended.map_err(|error| failed(ACTION, error))?;
        Ok(answer)
    }

    async fn rollback(self: Box<Self>) {
        if let Err(error) = self.tx.rollback().await {
            tracing::debug!(%error, "a transaction could not be rolled back");
        }
    }
}
