//! The floor: the bare statements on the same tables, in a loop that does nothing else, each of them committed by itself.

use backfill_workflow::Client;
use sqlx::{Connection, PgConnection};
use tokio::sync::Mutex;

use crate::Result;
use crate::cases::STEPS;
use crate::child::{Contestant, Told};

const START: &str = "
with run as (
    insert into dbos.workflow_status (
        workflow_uuid, status, name, executor_id, owner_xid, application_version, created_at, updated_at, started_at_epoch_ms,
        recovery_attempts, priority, serialization
    )
    select $1, 'PENDING', 'floor', 'floor', $2, '1', now, now, now, 1, 0, 'portable_json'
    from (select (extract(epoch from clock_timestamp()) * 1000)::bigint as now) as clock
    returning workflow_uuid, created_at
)
insert into dbos.workflow_input (workflow_uuid, inputs, retention_timestamp) select workflow_uuid, $3, created_at from run";

const STEP: &str = "
with mine as (
    select workflow_uuid from dbos.workflow_status
    where workflow_uuid = $1 and status = 'PENDING' and owner_xid = $2
    for share
)
insert into dbos.operation_outputs (
    workflow_uuid, function_id, function_name, output, serialization, started_at_epoch_ms, completed_at_epoch_ms
)
select workflow_uuid, $3, 'step', $4, 'portable_json', $5, $5 from mine
on conflict (workflow_uuid, function_id) do nothing";

const END: &str = "
with run as (
    update dbos.workflow_status set
        status = 'SUCCESS', completed_at = now, updated_at = now, owner_xid = null, deduplication_id = null
    from (select (extract(epoch from clock_timestamp()) * 1000)::bigint as now) as clock
    where workflow_uuid = $1 and status = 'PENDING' and owner_xid = $2
    returning workflow_uuid, now
)
insert into dbos.workflow_output (workflow_uuid, output, retention_timestamp) select workflow_uuid, $3, now from run";

pub struct Floor {
    connections: Vec<Mutex<PgConnection>>,
    process: u32,
}

impl Floor {
    /// With a connection for each that is in flight.
    pub async fn new(told: &Told, flying: usize) -> Result<Self> {
        Client::connect(&told.url).await?;
        let mut connections = Vec::new();
        for _ in 0..flying {
            connections.push(Mutex::new(PgConnection::connect(&told.url).await?));
        }
        Ok(Self { connections, process: std::process::id() })
    }
}

impl Contestant for Floor {
    async fn ten_steps(&self, n: u64) -> Result<()> {
        let free = self.connections.iter().find_map(|connection| connection.try_lock().ok());
        let mut connection = free.ok_or("no connection is free")?;
        let (id, owner) = (format!("00000000-0000-4000-{:04x}-{n:012x}", self.process & 0xffff), format!("{n:032x}"));
        sqlx::query(START).bind(&id).bind(&owner).bind("[1]").execute(&mut *connection).await?;
        for step in 0..STEPS {
            let number = i32::try_from(step)?;
            let written = sqlx::query(STEP).bind(&id).bind(&owner).bind(number).bind("1").bind(1_i64);
            if written.execute(&mut *connection).await?.rows_affected() != 1 {
                return Err("a step was not written".into());
            }
        }
        sqlx::query(END).bind(&id).bind(&owner).bind("1").execute(&mut *connection).await?;
        Ok(())
    }

    async fn enqueue(&self, _: u64) -> Result<()> {
        Err("the floor has no queue".into())
    }
}
