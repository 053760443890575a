-- The SQL API of revision 20: what Node producers, triggers and people at a prompt call.
--
-- `create or replace` throughout, so that grants and dependent objects survive where the signature stands.
-- Argument names are API (callers use named notation). A lock older than four hours counts as no lock in
-- the administrative functions, never in add_job(s): Graphile's rule. (add_jobs has a file of its own.)

create or replace function graphile_worker.add_job(
  identifier text,
  payload json default null,
  queue_name text default null,
  run_at timestamptz default null,
  max_attempts integer default null,
  job_key text default null,
  priority integer default null,
  flags text[] default null,
  job_key_mode text default 'replace'
) returns graphile_worker._private_jobs
language plpgsql
as $$
declare
  stored graphile_worker._private_jobs;
begin
  -- The mode matters only to a keyed job; without a key nobody looks at it.
  if add_job.job_key is not null
    and add_job.job_key_mode not in ('replace', 'preserve_run_at', 'unsafe_dedupe')
  then
    raise exception using
      errcode = 'GWBKM',
      message = 'Invalid job_key_mode value, expected ''replace'', ''preserve_run_at'' or ''unsafe_dedupe''.';
  end if;

  if add_job.job_key is null or add_job.job_key_mode is distinct from 'unsafe_dedupe' then
    select * into stored
    from graphile_worker.add_jobs(
      array[row(
        add_job.identifier,
        add_job.payload,
        add_job.queue_name,
        add_job.run_at,
        add_job.max_attempts::smallint,
        add_job.job_key,
        add_job.priority::smallint,
        add_job.flags
      )::graphile_worker.job_spec],
      coalesce(add_job.job_key_mode = 'preserve_run_at', false)
    );
    return stored;
  end if;

  -- unsafe_dedupe: whatever holds the key stays as it is, even if it runs or is dead.
  insert into graphile_worker._private_tasks (identifier)
  select add_job.identifier
  where not exists (
    select from graphile_worker._private_tasks known where known.identifier = add_job.identifier
  )
  on conflict do nothing;

  insert into graphile_worker._private_job_queues (queue_name)
  select add_job.queue_name
  where add_job.queue_name is not null
    and not exists (
      select from graphile_worker._private_job_queues known where known.queue_name = add_job.queue_name
    )
  on conflict do nothing;

  insert into graphile_worker._private_jobs as job (
    job_queue_id, task_id, payload, run_at, max_attempts, key, priority, flags
  )
  select
    (select queue.id from graphile_worker._private_job_queues queue where queue.queue_name = add_job.queue_name),
    task.id,
    coalesce(add_job.payload, '{}'::json),
    coalesce(add_job.run_at, now()),
    coalesce(add_job.max_attempts::smallint, 25::smallint),
    add_job.job_key,
    coalesce(add_job.priority::smallint, 0::smallint),
    (select jsonb_object_agg(flag, true) from unnest(add_job.flags) as flag)
  from graphile_worker._private_tasks task
  where task.identifier = add_job.identifier
  on conflict (key) do update set revision = job.revision + 1, updated_at = now()
  returning * into stored;

  -- Revision 0 means that it was really inserted.
  if stored.revision = 0 then
    perform pg_notify('jobs:insert', '{"r":' || random()::text || ',"count":1}');
  end if;
  return stored;
end;
$$;

create or replace function graphile_worker.complete_jobs(job_ids bigint[])
returns setof graphile_worker._private_jobs
language sql
as $$
  delete from graphile_worker._private_jobs
  where id = any (job_ids)
    and (locked_at is null or locked_at < now() - interval '4 hours')
  returning *;
$$;

create or replace function graphile_worker.permanently_fail_jobs(
  job_ids bigint[],
  error_message text default null
) returns setof graphile_worker._private_jobs
language sql
as $$
  update graphile_worker._private_jobs
  set
    last_error = coalesce(error_message, 'Manually marked as failed'),
    attempts = max_attempts,
    updated_at = now()
  where id = any (job_ids)
    and (locked_at is null or locked_at < now() - interval '4 hours')
  returning *;
$$;

create or replace function graphile_worker.reschedule_jobs(
  job_ids bigint[],
  run_at timestamptz default null,
  priority integer default null,
  attempts integer default null,
  max_attempts integer default null
) returns setof graphile_worker._private_jobs
language sql
as $$
  update graphile_worker._private_jobs job
  set
    run_at = coalesce(reschedule_jobs.run_at, job.run_at),
    priority = coalesce(reschedule_jobs.priority::smallint, job.priority),
    attempts = coalesce(reschedule_jobs.attempts::smallint, job.attempts),
    max_attempts = coalesce(reschedule_jobs.max_attempts::smallint, job.max_attempts),
    updated_at = now()
  where job.id = any (job_ids)
    and (job.locked_at is null or job.locked_at < now() - interval '4 hours')
  returning *;
$$;

create or replace function graphile_worker.remove_job(job_key text)
returns graphile_worker._private_jobs
language plpgsql
strict
as $$
declare
  removed graphile_worker._private_jobs;
begin
  delete from graphile_worker._private_jobs job
  where job.key = remove_job.job_key
    and (job.locked_at is null or job.locked_at < now() - interval '4 hours')
  returning * into removed;
  if found then
    perform pg_notify('jobs:insert', '{"r":' || random()::text || ',"count":-1}');
    return removed;
  end if;

  -- It is running: it gives up its key, and this attempt is its last.
  update graphile_worker._private_jobs job
  set key = null, attempts = job.max_attempts, updated_at = now()
  where job.key = remove_job.job_key
  returning * into removed;
  return removed;
end;
$$;

create or replace function graphile_worker.force_unlock_workers(worker_ids text[])
returns void
language sql
as $$
  update graphile_worker._private_jobs
  set locked_at = null, locked_by = null
  where locked_by = any (worker_ids);

  update graphile_worker._private_job_queues
  set locked_at = null, locked_by = null
  where locked_by = any (worker_ids);
$$;
