-- From any version of the shared part of the ledger (100 and later) to 125, but for the indexes. Each statement may have been done before. The
-- numbers are those of the ledger.

-- 108
alter table dbos.queues
    add column if not exists partition_concurrency integer,
    add column if not exists partition_worker_concurrency integer,
    add column if not exists partition_rate_limit_max integer,
    add column if not exists partition_rate_limit_period_sec double precision;

-- 100 to 104
alter table dbos.workflow_status add column if not exists application_name text;
alter table dbos.queues add column if not exists application_name text;
alter table dbos.workflow_schedules add column if not exists application_name text;
alter table dbos.application_versions add column if not exists application_name text;
alter table dbos.operation_outputs add column if not exists application_name text;

-- 109
create table if not exists dbos.workflow_input (
    workflow_uuid text primary key,
    inputs text,
    retention_timestamp bigint not null default (extract(epoch from now()) * 1000.0)::bigint
);
create table if not exists dbos.workflow_output (
    workflow_uuid text primary key,
    output text,
    error text,
    retention_timestamp bigint not null default (extract(epoch from now()) * 1000.0)::bigint
);

-- 110: with a constant default, which rewrites no row, and then the one for new rows.
do $$
begin
    if not exists (
        select from pg_catalog.pg_attribute
        where attrelid = 'dbos.operation_outputs'::regclass and attname = 'retention_timestamp' and not attisdropped
    ) then
        execute format(
            'alter table dbos.operation_outputs add column retention_timestamp bigint not null default %s',
            (extract(epoch from now()) * 1000.0)::bigint
        );
    end if;
end
$$;
alter table dbos.operation_outputs
    alter column retention_timestamp set default (extract(epoch from now()) * 1000.0)::bigint;

-- 112
alter table dbos.operation_outputs drop constraint if exists operation_outputs_workflow_uuid_fkey;

-- 121
alter table dbos.notifications add column if not exists consumed_by_function_id integer;

-- 123
alter table dbos.workflow_status add column if not exists creator_xid text;

-- 105: a function with one argument less. Calls would be ambiguous.
do $$
declare
    old regprocedure;
begin
    for old in
        select oid::regprocedure from pg_catalog.pg_proc
        where pronamespace = 'dbos'::regnamespace and proname = 'enqueue_workflow' and pronargs <> 17
    loop
        execute format('drop function %s', old);
    end loop;
end
$$;
