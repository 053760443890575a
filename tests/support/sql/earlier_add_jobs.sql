-- The function add_jobs as it was before the script own/005_add_jobs.sql, for tests of what migrates it. S. is the schema.
create or replace function S.add_jobs(
  specs S.job_spec[],
  job_key_preserve_run_at boolean default false
) returns setof S._private_jobs
language plpgsql
as $$
declare
  -- Specs still to be stored, by position. Normally one round empties it; see the end of the loop.
  pending integer[] := array(select generate_subscripts(specs, 1));
  stored S._private_jobs;
  stored_keys text[];
begin
  -- Names first, and only the missing ones: an insert that conflicts burns an id of a 32-bit sequence.
  insert into S._private_tasks (identifier)
  select distinct wanted.identifier
  from unnest(specs) as wanted
  where not exists (
    select from S._private_tasks known where known.identifier = wanted.identifier
  )
  on conflict do nothing;

  insert into S._private_job_queues (queue_name)
  select distinct wanted.queue_name
  from unnest(specs) as wanted
  where wanted.queue_name is not null
    and not exists (
      select from S._private_job_queues known where known.queue_name = wanted.queue_name
    )
  on conflict do nothing;

  -- Delivered at commit. The count is of specs, so it over-reports when some become updates.
  perform pg_notify(
    'jobs:insert',
    '{"r":' || random()::text || ',"count":' || array_length(specs, 1)::text || '}'
  );

  loop
    -- A job under this key that is running, or dead, is not changed any more: it gives up its key and will
    -- not run again, and a new job takes the key.
    update S._private_jobs taken
    set key = null, attempts = taken.max_attempts, updated_at = now()
    where taken.key in (select specs[position].job_key from unnest(pending) as position)
      and taken.is_available is not true;

    stored_keys := '{}';
    for stored in
      insert into S._private_jobs as job (
        job_queue_id, task_id, payload, run_at, max_attempts, key, priority, flags
      )
      select
        queue.id,
        task.id,
        coalesce(wanted.payload, '{}'::json),
        coalesce(wanted.run_at, now()),
        coalesce(wanted.max_attempts, 25),
        wanted.job_key,
        coalesce(wanted.priority, 0),
        (select jsonb_object_agg(flag, true) from unnest(wanted.flags) as flag)
      from unnest(specs) with ordinality as wanted(
        identifier, payload, queue_name, run_at, max_attempts, job_key, priority, flags, position
      )
      join S._private_tasks task on task.identifier = wanted.identifier
      left join S._private_job_queues queue on queue.queue_name = wanted.queue_name
      where wanted.position = any (pending)
      order by wanted.position
      on conflict (key) do update set
        job_queue_id = excluded.job_queue_id,
        task_id = excluded.task_id,
        payload = case
          when json_typeof(job.payload) = 'array' and json_typeof(excluded.payload) = 'array'
          then (job.payload::jsonb || excluded.payload::jsonb)::json
          else excluded.payload
        end,
        run_at = case
          when job_key_preserve_run_at and job.attempts = 0 then job.run_at
          else excluded.run_at
        end,
        max_attempts = excluded.max_attempts,
        priority = excluded.priority,
        flags = excluded.flags,
        revision = job.revision + 1,
        attempts = 0,
        last_error = null,
        updated_at = now()
      where job.locked_at is null
      returning *
    loop
      return next stored;
      stored_keys := stored_keys || stored.key;
    end loop;

    -- A key whose job was claimed between the two statements above was neither freed nor inserted. Go round
    -- again for it: now the first statement sees the claim. (Node's function drops such a job silently.)
    pending := array(
      select position
      from unnest(pending) as position
      where specs[position].job_key is not null
        and specs[position].job_key <> all (stored_keys)
    );
    exit when cardinality(pending) = 0;
  end loop;
end;
$$;
