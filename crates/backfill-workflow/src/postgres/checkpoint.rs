//! Recording steps, with what goes with them.

use std::any::Any;

use async_trait::async_trait;
use sqlx::{Acquire, PgConnection, Postgres, Transaction};

use super::{PostgresStore, create, failed};
use crate::codec;
use crate::error::Result;
use crate::store::{
    Checkpoint, Checkpointed, Effect, Encoded, Existing, NewMessage, Status, StepRow, StoreTransaction,
};

const ACTION: &str = "record a step";

/// Records steps: those that nothing goes with in one statement, each other one in a transaction of its own.
pub(super) async fn checkpoint(store: &PostgresStore, checkpoints: &[Checkpoint]) -> Result<Vec<Checkpointed>> {
    let mut connection = store.kept.take(&store.pool).await.map_err(|error| failed(ACTION, error))?;
    let plain: Vec<&Checkpoint> = checkpoints.iter().filter(|one| one.effect.is_none()).collect();
    let mut written = record(store, &mut connection, &plain).await?.into_iter();
    let mut answers = Vec::with_capacity(checkpoints.len());
    for one in checkpoints {
        answers.push(match &one.effect {
            None => written.next().unwrap_or(Checkpointed::Refused(None)),
            Some(effect) => {
                let mut tx = connection.begin().await.map_err(|error| failed(ACTION, error))?;
                let answer = with_effect(store, &mut tx, one, effect).await?;
                end(tx, one, &answer).await?;
                answer
            }
        });
    }
    store.kept.keep(&store.pool, connection);
    Ok(answers)
}

/// Commits what is recorded, and rolls back what is not.
async fn end(tx: Transaction<'_, Postgres>, one: &Checkpoint, answer: &Checkpointed) -> Result<()> {
    let child = match &one.effect {
        Some(Effect::Child(child)) => Some(child.name.as_str()),
        _ => None,
    };
    let ended = match answer {
        Checkpointed::Written | Checkpointed::Received(_) => tx.commit().await,
        Checkpointed::Child(created) if created.is_kept(child.unwrap_or_default()) => tx.commit().await,
        _ => tx.rollback().await,
    };
    ended.map_err(|error| failed(ACTION, error))
}

/// Records steps in one statement.
async fn record(
    store: &PostgresStore,
    connection: &mut PgConnection,
    checkpoints: &[&Checkpoint],
) -> Result<Vec<Checkpointed>> {
    if checkpoints.is_empty() {
        return Ok(Vec::new());
    }
    let steps = || checkpoints.iter().map(|one| &one.step);
    let runs: Vec<&str> = checkpoints.iter().map(|one| one.run.as_str()).collect();
    let owners: Vec<&str> = checkpoints.iter().map(|one| one.owner.as_str()).collect();
    let numbers: Vec<i32> = steps().map(|step| step.number).collect();
    let names: Vec<&str> = steps().map(|step| step.name.as_str()).collect();
    let outputs: Vec<Option<&str>> = steps().map(|step| step.output.as_deref()).collect();
    let errors: Vec<Option<&str>> = steps().map(|step| step.error.as_deref()).collect();
    let formats: Vec<Option<&str>> = steps().map(|step| step.format.as_deref()).collect();
    let children: Vec<Option<&str>> = steps().map(|step| step.child.as_deref()).collect();
    let started: Vec<Option<i64>> = steps().map(|step| step.started_at).collect();
    let completed: Vec<Option<i64>> = steps().map(|step| step.completed_at).collect();
    // The workflow's row is locked, shared, against whoever would cancel it or take it over meanwhile: the token is still its own
    // when the step is stored. The status is written so that no index of all that runs is taken for the way to it. That, a cancellation and an earlier record are all seen by this one statement.
    let rows = sqlx::query_scalar!(
        r#"with step as (
               select * from unnest(
                   $1::text[], $2::text[], $3::int[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::bigint[],
                   $10::bigint[]
               ) with ordinality as s (run, owner, number, name, output, error, format, child, started_at, completed_at, place)
           ), mine as (
               select workflow_uuid, owner_xid, application_name from dbos.workflow_status
               where workflow_uuid = any($1) and coalesce(status, '') = 'PENDING' and owner_xid = any($2)
               for share
           ), written as (
               insert into dbos.operation_outputs (
                   workflow_uuid, function_id, function_name, output, error, serialization, child_workflow_id,
                   started_at_epoch_ms, completed_at_epoch_ms, application_name
               )
               select s.run, s.number, s.name, s.output, s.error, s.format, s.child, s.started_at, s.completed_at, m.application_name
               from step s join mine m on m.workflow_uuid = s.run and m.owner_xid = s.owner
               on conflict (workflow_uuid, function_id) do nothing
               returning workflow_uuid, function_id
           )
           select (w.workflow_uuid is not null and m.workflow_uuid is not null) as "written!"
           from step s
           left join mine m on m.workflow_uuid = s.run and m.owner_xid = s.owner
           left join written w on w.workflow_uuid = s.run and w.function_id = s.number
           order by s.place"#,
        &runs as &[&str],
        &owners as &[&str],
        &numbers,
        &names as &[&str],
        &outputs as &[Option<&str>],
        &errors as &[Option<&str>],
        &formats as &[Option<&str>],
        &children as &[Option<&str>],
        &started as &[Option<i64>],
        &completed as &[Option<i64>],
    );
    let rows = rows.fetch_all(store.schema.on(&mut *connection)).await.map_err(|error| failed(ACTION, error))?;
    let mut answers = Vec::with_capacity(rows.len());
    for (written, one) in rows.into_iter().zip(checkpoints) {
        answers.push(if written { Checkpointed::Written } else { refusal(store, connection, one).await? });
    }
    Ok(answers)
}

/// Why a step was not recorded.
async fn refusal(store: &PostgresStore, connection: &mut PgConnection, one: &Checkpoint) -> Result<Checkpointed> {
    let row = sqlx::query!(
        r#"select status as "status!", coalesce(name, '') as "name!", owner_xid from dbos.workflow_status where workflow_uuid = $1"#,
        one.run,
    );
    let row = row.fetch_optional(store.schema.on(&mut *connection)).await.map_err(|error| failed(ACTION, error))?;
    // What is recorded is of interest to the execution that may write, and to no other: that one has to end.
    let mine = row.as_ref().is_some_and(|row| {
        row.status == Status::Pending.name() && row.owner_xid.as_deref() == Some(one.owner.as_str())
    });
    if mine && let Some(step) = recorded(store, connection, one).await? {
        return Ok(Checkpointed::Recorded(step));
    }
    Ok(Checkpointed::Refused(row.map(|row| Existing {
        status: Status::parse(&row.status).unwrap_or(Status::Pending),
        name: row.name,
        owner: row.owner_xid,
    })))
}

/// What is recorded of the step.
async fn recorded(store: &PostgresStore, connection: &mut PgConnection, one: &Checkpoint) -> Result<Option<StepRow>> {
    let row = sqlx::query_as!(
        StepRow,
        r#"select
               function_id as number, function_name as name, output, error, serialization as format, child_workflow_id as child,
               started_at_epoch_ms as started_at, completed_at_epoch_ms as completed_at
           from dbos.operation_outputs where workflow_uuid = $1 and function_id = $2"#,
        one.run,
        one.step.number,
    );
    row.fetch_optional(store.schema.on(connection)).await.map_err(|error| failed(ACTION, error))
}

/// Records a step with what goes with it, in the transaction of the caller, who rolls back what is not recorded.
async fn with_effect(
    store: &PostgresStore,
    connection: &mut PgConnection,
    one: &Checkpoint,
    effect: &Effect,
) -> Result<Checkpointed> {
    // What is received is part of the record, so it comes first.
    if let Effect::Receive { topic } = effect {
        return receive(store, connection, one, topic).await;
    }
    if let Effect::Append { key, .. } = effect {
        // Steps that write to one stream do so one after the other; what stands there is read after the lock is held.
        let lock = format!("backfill_workflow stream {} {} {key}", store.schema.name(), one.run);
        let locked = sqlx::query!("select pg_advisory_xact_lock(hashtextextended($1, 0))", lock);
        locked.execute(&mut *connection).await.map_err(|error| failed("write a stream", error))?;
    }
    let plain = record(store, connection, &[one]).await?.pop().unwrap_or(Checkpointed::Refused(None));
    if plain != Checkpointed::Written {
        return Ok(plain);
    }
    match effect {
        Effect::Receive { .. } => {}
        Effect::Send(message) => {
            if !send(store, connection, message).await? {
                return Ok(Checkpointed::NoDestination);
            }
        }
        Effect::Event { key, value } => set_event(store, connection, one, key, value).await?,
        Effect::Append { key, value } => {
            if !append(store, connection, one, key, value).await? {
                return Ok(Checkpointed::StreamClosed);
            }
        }
        Effect::Child(child) => return create::create_one(store, connection, child).await.map(Checkpointed::Child),
        Effect::Jobs(client, jobs) => {
            client.add_checked(jobs.clone(), connection).await?;
        }
    }
    Ok(Checkpointed::Written)
}

/// Consumes the oldest message. Whoever consumed it meanwhile makes this one take the next.
async fn receive(
    store: &PostgresStore,
    connection: &mut PgConnection,
    one: &Checkpoint,
    topic: &str,
) -> Result<Checkpointed> {
    let message = sqlx::query!(
        r#"update dbos.notifications set consumed = true, consumed_by_function_id = $3
           where message_uuid = (
               select message_uuid from dbos.notifications
               where destination_uuid = $1 and topic = $2 and not consumed
               order by created_at_epoch_ms, message_uuid limit 1 for update
           )
           returning message, serialization"#,
        one.run,
        topic,
        one.step.number,
    );
    let message = message.fetch_optional(store.schema.on(&mut *connection)).await;
    let Some(message) = message.map_err(|error| failed("receive a message", error))? else {
        // An earlier write of this step may have consumed it.
        return match alive(store, connection, one).await? {
            Some(refusal) => Ok(refusal),
            None => match recorded(store, connection, one).await? {
                Some(step) => Ok(Checkpointed::Recorded(step)),
                None => Ok(Checkpointed::NoMessage),
            },
        };
    };
    let body = Encoded { text: message.message, format: message.serialization };
    let step = StepRow { output: Some(body.text.clone()), format: body.format.clone(), ..one.step.clone() };
    let one = Checkpoint { step, effect: None, ..one.clone() };
    match record(store, connection, &[&one]).await?.pop() {
        Some(Checkpointed::Written) => Ok(Checkpointed::Received(body)),
        other => Ok(other.unwrap_or(Checkpointed::Refused(None))),
    }
}

/// Why the execution may not write, if it may not.
async fn alive(store: &PostgresStore, connection: &mut PgConnection, one: &Checkpoint) -> Result<Option<Checkpointed>> {
    let row = sqlx::query_scalar!(
        r#"select (status = 'PENDING' and owner_xid = $2) as "mine" from dbos.workflow_status where workflow_uuid = $1"#,
        one.run,
        one.owner,
    );
    let row = row.fetch_optional(store.schema.on(&mut *connection)).await.map_err(|error| failed(ACTION, error))?;
    match row {
        Some(Some(true)) => Ok(None),
        _ => refusal(store, connection, one).await.map(Some),
    }
}

/// Sends a message. Answers whether the workflow exists. Two of one millisecond are told apart: a topic's order is that of its sends.
pub(super) async fn send(store: &PostgresStore, connection: &mut PgConnection, message: &NewMessage) -> Result<bool> {
    let sent = sqlx::query_scalar!(
        r#"with destination as (
               select workflow_uuid from dbos.workflow_status where workflow_uuid = $1 for key share
           ), sent as (
               insert into dbos.notifications (message_uuid, destination_uuid, topic, message, serialization, created_at_epoch_ms)
               select
                   $2, workflow_uuid, $3, $4, $5,
                   greatest(
                       (extract(epoch from clock_timestamp()) * 1000)::bigint,
                       (select max(created_at_epoch_ms) + 1 from dbos.notifications where destination_uuid = $1 and topic = $3)
                   )
               from destination
               on conflict (message_uuid) do nothing
           )
           select exists (select from destination) as "exists!""#,
        message.destination,
        message.id,
        message.topic,
        message.body.text,
        message.body.format,
    );
    sent.fetch_one(store.schema.on(connection)).await.map_err(|error| failed("send a message", error))
}

async fn set_event(
    store: &PostgresStore,
    connection: &mut PgConnection,
    one: &Checkpoint,
    key: &str,
    value: &Encoded,
) -> Result<()> {
    // The channel is that of DBOS's libraries, whose clients wait on it.
    let set = sqlx::query!(
        "with event as (
             insert into dbos.workflow_events (workflow_uuid, key, value, serialization) values ($1, $2, $3, $4)
             on conflict (workflow_uuid, key) do update set value = excluded.value, serialization = excluded.serialization
         ), history as (
             insert into dbos.workflow_events_history (workflow_uuid, function_id, key, value, serialization)
             values ($1, $5, $2, $3, $4)
             on conflict (workflow_uuid, function_id, key) do update
                 set value = excluded.value, serialization = excluded.serialization
         )
         select pg_notify('dbos_workflow_events_channel', left($1 || '::' || $2, 7900))",
        one.run,
        key,
        value.text,
        value.format,
        one.step.number,
    );
    set.execute(store.schema.on(connection)).await.map_err(|error| failed("set an event", error))?;
    Ok(())
}

/// Adds a value at the end of a stream. Answers whether it is open.
async fn append(
    store: &PostgresStore,
    connection: &mut PgConnection,
    one: &Checkpoint,
    key: &str,
    value: &Encoded,
) -> Result<bool> {
    let last = sqlx::query!(
        r#"select value, "offset" from dbos.streams where workflow_uuid = $1 and key = $2 order by "offset" desc limit 1"#,
        one.run,
        key,
    );
    let last = last.fetch_optional(store.schema.on(&mut *connection)).await;
    let last = last.map_err(|error| failed("write a stream", error))?;
    if last.as_ref().is_some_and(|last| codec::is_closed(&last.value)) {
        return Ok(false);
    }
    let written = sqlx::query!(
        r#"with value as (
               insert into dbos.streams (workflow_uuid, key, value, "offset", function_id, serialization)
               values ($1, $2, $3, $4, $5, $6)
           )
           select pg_notify('dbos_streams_channel', left($1 || '::' || $2, 7900))"#,
        one.run,
        key,
        value.text,
        last.map_or(0, |last| last.offset + 1),
        one.step.number,
        value.format,
    );
    written.execute(store.schema.on(connection)).await.map_err(|error| failed("write a stream", error))?;
    Ok(true)
}

/// A transaction for the user's own statements.
struct Ours {
    store: PostgresStore,
    tx: Transaction<'static, Postgres>,
}

pub(super) async fn begin(store: &PostgresStore) -> Result<Box<dyn StoreTransaction>> {
    let tx = store.pool.begin().await.map_err(|error| failed("begin a transaction", error))?;
    Ok(Box::new(Ours { store: store.clone(), tx }))
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
        let answer = record(&self.store, &mut self.tx, &[one]).await?.pop().unwrap_or(Checkpointed::Refused(None));
        end(self.tx, one, &answer).await?;
        Ok(answer)
    }

    async fn rollback(self: Box<Self>) {
        // A connection that is lost has rolled back by itself.
        if let Err(error) = self.tx.rollback().await {
            tracing::debug!(%error, "a transaction could not be rolled back");
        }
    }
}
