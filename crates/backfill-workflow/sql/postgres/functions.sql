-- For programs that speak SQL alone. Both are called by name and position as in DBOS's own schema.

-- Puts a workflow into a queue. An id that is there is answered as it is.
create or replace function dbos.enqueue_workflow(
    workflow_name text,
    queue_name text,
    positional_args json[] default array[]::json[],
    named_args json default '{}'::json,
    class_name text default null,
    config_name text default null,
    workflow_id text default null,
    app_version text default null,
    timeout_ms bigint default null,
    deadline_epoch_ms bigint default null,
    deduplication_id text default null,
    priority integer default null,
    queue_partition_key text default null,
    authenticated_user text default null,
    authenticated_roles text default null,
    delay_until_epoch_ms bigint default null,
    application_name text default null
) returns text
    language plpgsql set search_path to 'pg_catalog', 'pg_temp' as $$
declare
    new_id text := coalesce(workflow_id, gen_random_uuid()::text);
    present bigint := (extract(epoch from clock_timestamp()) * 1000)::bigint;
begin
    if coalesce(workflow_name, '') = '' then
        raise exception 'the workflow needs a name' using errcode = 'invalid_parameter_value';
    elsif coalesce(queue_name, '') = '' then
        raise exception 'the workflow needs a queue' using errcode = 'invalid_parameter_value';
    elsif workflow_id = '' then
        raise exception 'the workflow''s id must not be empty' using errcode = 'invalid_parameter_value';
    elsif json_typeof(named_args) <> 'object' then
        raise exception 'named arguments are a JSON object' using errcode = 'invalid_parameter_value';
    elsif delay_until_epoch_ms < 0 then
        raise exception 'a delay ends at a moment from 0 on' using errcode = 'invalid_parameter_value';
    end if;

    insert into dbos.workflow_status as w (
        workflow_uuid, status, name, class_name, config_name, queue_name, deduplication_id, priority, queue_partition_key,
        application_version, created_at, updated_at, recovery_attempts, workflow_timeout_ms, workflow_deadline_epoch_ms,
        serialization, authenticated_user, authenticated_roles, delay_until_epoch_ms, application_name, creator_xid
    ) values (
        new_id, case when delay_until_epoch_ms is null then 'ENQUEUED' else 'DELAYED' end, workflow_name, class_name,
        config_name, queue_name, deduplication_id, coalesce(priority, 0), queue_partition_key, app_version, present, present,
        0, timeout_ms, deadline_epoch_ms, 'portable_json', authenticated_user, authenticated_roles, delay_until_epoch_ms,
        application_name, gen_random_uuid()::text
    ) on conflict (workflow_uuid) do update set updated_at = excluded.updated_at;

    insert into dbos.workflow_input (workflow_uuid, inputs, retention_timestamp)
    values (
        new_id,
        json_build_object('positionalArgs', coalesce(positional_args, array[]::json[]), 'namedArgs', coalesce(named_args, '{}'::json))::text,
        present
    ) on conflict (workflow_uuid) do nothing;
    return new_id;
exception
    when unique_violation then
        raise exception 'DBOS queue duplicated'
            using errcode = 'unique_violation',
                detail = format('another workflow in the queue %s has the deduplication id %s', queue_name, deduplication_id);
end
$$;

-- Sends a message to a workflow. A message whose id is there is not sent again.
create or replace function dbos.send_message(
    destination_id text,
    message json,
    topic text default null,
    message_id text default null
) returns void
    language plpgsql set search_path to 'pg_catalog', 'pg_temp' as $$
begin
    insert into dbos.notifications (destination_uuid, topic, message, message_uuid, serialization)
    values (
        destination_id, coalesce(topic, '__null__topic__'), message::text, coalesce(message_id, gen_random_uuid()::text),
        'portable_json'
    ) on conflict (message_uuid) do nothing;
exception
    when foreign_key_violation then
        raise exception 'DBOS non-existent workflow'
            using errcode = 'foreign_key_violation', detail = format('there is no workflow %s', destination_id);
end
$$;
