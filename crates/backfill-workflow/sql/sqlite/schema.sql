-- Workflows in a file. The tables have the names and columns of DBOS's shared schema (version 125); times are milliseconds since 1970, attributes
-- are JSON as text, and truth is 0 or 1.
create table if not exists workflow_status (
    workflow_uuid text not null primary key,
    status text not null,
    name text not null,
    authenticated_user text,
    assumed_role text,
    authenticated_roles text,
    request text,
    output text,
    error text,
    executor_id text,
    created_at integer not null,
    updated_at integer not null,
    application_version text,
    application_id text,
    class_name text,
    config_name text,
    recovery_attempts integer not null default 0,
    queue_name text,
    workflow_timeout_ms integer,
    workflow_deadline_epoch_ms integer,
    inputs text,
    started_at_epoch_ms integer,
    deduplication_id text,
    priority integer not null default 0,
    queue_partition_key text,
    forked_from text,
    -- The token of the execution that may write: the fence.
    owner_xid text,
    parent_workflow_id text,
    serialization text,
    delay_until_epoch_ms integer,
    was_forked_from boolean not null default false,
    rate_limited boolean not null default false,
    completed_at integer,
    attributes text,
    schedule_name text,
    debounce_deadline_epoch_ms integer,
    is_debounced boolean not null default false,
    application_name text,
    -- The token of whoever stored the row.
    creator_xid text
);
create index if not exists idx_workflow_status_in_flight on workflow_status (queue_name, status, priority, created_at, workflow_uuid) where status in ('ENQUEUED', 'PENDING');
create index if not exists idx_workflow_status_delayed on workflow_status (delay_until_epoch_ms) where status = 'DELAYED';
create index if not exists idx_workflow_status_deadline on workflow_status (workflow_deadline_epoch_ms) where status in ('ENQUEUED', 'PENDING', 'DELAYED') and workflow_deadline_epoch_ms is not null;
create index if not exists idx_workflow_status_pending on workflow_status (executor_id) where status = 'PENDING';
create index if not exists idx_workflow_status_rate_limited on workflow_status (queue_name, started_at_epoch_ms) where rate_limited;
create index if not exists idx_workflow_status_completed_at on workflow_status (completed_at) where completed_at is not null;
create index if not exists workflow_status_created_at_index on workflow_status (created_at);
create index if not exists idx_workflow_status_parent_workflow_id on workflow_status (parent_workflow_id) where parent_workflow_id is not null;
create unique index if not exists uq_workflow_status_dedup_id on workflow_status (queue_name, deduplication_id) where deduplication_id is not null;

create table if not exists workflow_input (
    workflow_uuid text not null primary key,
    inputs text
);
create table if not exists workflow_output (
    workflow_uuid text not null primary key,
    output text,
    error text
);

create table if not exists operation_outputs (
    workflow_uuid text not null,
    function_id integer not null,
    function_name text not null,
    output text,
    error text,
    child_workflow_id text,
    started_at_epoch_ms integer,
    completed_at_epoch_ms integer,
    serialization text,
    application_name text,
    primary key (workflow_uuid, function_id)
) without rowid;

create table if not exists notifications (
    message_uuid text not null primary key,
    destination_uuid text not null references workflow_status (workflow_uuid) on update cascade on delete cascade,
    topic text,
    message text not null,
    created_at_epoch_ms integer not null,
    serialization text,
    consumed boolean not null default false,
    consumed_by_function_id integer
);
create index if not exists idx_workflow_topic on notifications (destination_uuid, topic);

create table if not exists workflow_events (
    workflow_uuid text not null references workflow_status (workflow_uuid) on update cascade on delete cascade,
    key text not null,
    value text not null,
    serialization text,
    primary key (workflow_uuid, key)
);
create table if not exists workflow_events_history (
    workflow_uuid text not null references workflow_status (workflow_uuid) on update cascade on delete cascade,
    function_id integer not null,
    key text not null,
    value text not null,
    serialization text,
    primary key (workflow_uuid, function_id, key)
);
create table if not exists streams (
    workflow_uuid text not null references workflow_status (workflow_uuid) on update cascade on delete cascade,
    key text not null,
    value text not null,
    "offset" integer not null,
    function_id integer not null default 0,
    serialization text,
    primary key (workflow_uuid, key, "offset")
);

create table if not exists queues (
    queue_id text not null primary key,
    name text not null unique,
    concurrency integer,
    worker_concurrency integer,
    rate_limit_max integer,
    rate_limit_period_sec real,
    priority_enabled boolean not null default false,
    partition_queue boolean not null default false,
    polling_interval_sec real not null default 1.0,
    application_name text,
    partition_concurrency integer,
    partition_worker_concurrency integer,
    partition_rate_limit_max integer,
    partition_rate_limit_period_sec real
);

create table if not exists workflow_schedules (
    schedule_id text not null primary key,
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

create table if not exists application_versions (
    version_id text not null primary key,
    version_name text not null unique,
    version_timestamp integer not null,
    created_at integer not null,
    application_name text
);

create table if not exists dbos_migrations (
    version integer not null primary key
);
insert into dbos_migrations (version) select 125 where not exists (select 1 from dbos_migrations);

-- The processes that run workflows, and until when each is taken to live. This library's own.
create table if not exists backfill_workflow_executors (
    executor_id text not null primary key,
    lives_until integer not null
);
