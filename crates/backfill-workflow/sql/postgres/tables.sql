-- The tables that all of DBOS's libraries share, at version 125 of their ledger. Names, types and defaults are theirs: their clients read and
-- write these rows. Times are milliseconds since 1970.
--
-- `workflow_status` has what changes while a workflow lives; inputs and outputs, which may be large, have tables of their own (since version
-- 109; older rows have them in `workflow_status`).
create table dbos.workflow_status (
    workflow_uuid text primary key,
    status text,
    name text,
    authenticated_user text,
    assumed_role text,
    authenticated_roles text,
    request text,
    output text,
    error text,
    executor_id text,
    created_at bigint not null default (extract(epoch from now()) * 1000.0)::bigint,
    updated_at bigint not null default (extract(epoch from now()) * 1000.0)::bigint,
    application_version text,
    application_id text,
    class_name varchar(255) default null,
    config_name varchar(255) default null,
    recovery_attempts bigint default 0,
    queue_name text,
    workflow_timeout_ms bigint,
    workflow_deadline_epoch_ms bigint,
    inputs text,
    started_at_epoch_ms bigint,
    deduplication_id text,
    priority integer not null default 0,
    queue_partition_key text,
    forked_from text,
    -- The token of the execution that may write: the fence.
    owner_xid text,
    parent_workflow_id text,
    serialization text,
    delay_until_epoch_ms bigint,
    was_forked_from boolean not null default false,
    rate_limited boolean not null default false,
    completed_at bigint,
    attributes jsonb,
    schedule_name text,
    debounce_deadline_epoch_ms bigint,
    is_debounced boolean not null default false,
    application_name text,
    -- The token of whoever stored the row.
    creator_xid text
);

create table dbos.workflow_input (
    workflow_uuid text primary key,
    inputs text,
    retention_timestamp bigint not null default (extract(epoch from now()) * 1000.0)::bigint
);

create table dbos.workflow_output (
    workflow_uuid text primary key,
    output text,
    error text,
    retention_timestamp bigint not null default (extract(epoch from now()) * 1000.0)::bigint
);

-- The steps. Without a foreign key: one would lock the workflow's row for each.
create table dbos.operation_outputs (
    workflow_uuid text not null,
    function_id integer not null,
    function_name text not null default '',
    output text,
    error text,
    child_workflow_id text,
    started_at_epoch_ms bigint,
    completed_at_epoch_ms bigint,
    serialization text,
    application_name text,
    retention_timestamp bigint not null default (extract(epoch from now()) * 1000.0)::bigint,
    primary key (workflow_uuid, function_id)
);

create table dbos.notifications (
    message_uuid text not null default gen_random_uuid() primary key,
    destination_uuid text not null references dbos.workflow_status (workflow_uuid) on update cascade on delete cascade,
    topic text,
    message text not null,
    created_at_epoch_ms bigint not null default (extract(epoch from now()) * 1000.0)::bigint,
    serialization text,
    consumed boolean not null default false,
    consumed_by_function_id integer
);

create table dbos.workflow_events (
    workflow_uuid text not null references dbos.workflow_status (workflow_uuid) on update cascade on delete cascade,
    key text not null,
    value text not null,
    serialization text,
    primary key (workflow_uuid, key)
);

create table dbos.workflow_events_history (
    workflow_uuid text not null references dbos.workflow_status (workflow_uuid) on update cascade on delete cascade,
    function_id integer not null,
    key text not null,
    value text not null,
    serialization text,
    primary key (workflow_uuid, function_id, key)
);

create table dbos.streams (
    workflow_uuid text not null references dbos.workflow_status (workflow_uuid) on update cascade on delete cascade,
    key text not null,
    value text not null,
    "offset" integer not null,
    function_id integer not null default 0,
    serialization text,
    primary key (workflow_uuid, key, "offset")
);

create table dbos.queues (
    queue_id text not null default gen_random_uuid()::text primary key,
    name text not null unique,
    concurrency integer,
    worker_concurrency integer,
    rate_limit_max integer,
    rate_limit_period_sec double precision,
    priority_enabled boolean not null default false,
    partition_queue boolean not null default false,
    polling_interval_sec double precision not null default 1.0,
    created_at bigint not null default (extract(epoch from now()) * 1000.0)::bigint,
    updated_at bigint not null default (extract(epoch from now()) * 1000.0)::bigint,
    application_name text,
    partition_concurrency integer,
    partition_worker_concurrency integer,
    partition_rate_limit_max integer,
    partition_rate_limit_period_sec double precision
);

create table dbos.workflow_schedules (
    schedule_id text primary key,
    schedule_name text not null unique,
    workflow_name text not null,
    workflow_class_name text,
    schedule text not null,
    status text not null default 'ACTIVE',
    context text not null,
    last_fired_at text,
    automatic_backfill boolean not null default false,
    cron_timezone text,
    queue_name text,
    application_name text
);

create table dbos.application_versions (
    version_id text primary key,
    version_name text not null unique,
    version_timestamp bigint not null default (extract(epoch from now()) * 1000.0)::bigint,
    created_at bigint not null default (extract(epoch from now()) * 1000.0)::bigint,
    application_name text
);

-- Nothing new uses it; the others' clients expect it.
create table dbos.event_dispatch_kv (
    service_name text not null,
    workflow_fn_name text not null,
    key text not null,
    value text,
    update_seq numeric(38, 0),
    update_time numeric(38, 15),
    primary key (service_name, workflow_fn_name, key)
);

-- One row: the version of the schema.
create table dbos.dbos_migrations (
    version bigint primary key
);

create function dbos.notifications_function() returns trigger
    language plpgsql set search_path to 'pg_catalog', 'pg_temp' as $$
begin
    perform pg_notify('dbos_notifications_channel', new.destination_uuid || '::' || new.topic);
    return new;
end
$$;

create trigger dbos_notifications_trigger after insert on dbos.notifications
    for each row execute function dbos.notifications_function();
