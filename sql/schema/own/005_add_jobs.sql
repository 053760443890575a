-- The function that stores a batch of jobs. What each step does is Graphile's contract; see `functions.sql`.
--
-- The array is read as a set, never by subscript: its subscripts may begin anywhere, it may have several dimensions, and to reach
-- an element of such an array by its place means to walk over all before it.

create or replace function graphile_worker.add_jobs(
  specs graphile_worker.job_spec[],
  job_key_preserve_run_at boolean default false
) returns setof graphile_worker._private_jobs
language plpgsql
as $$
declare
  -- What is still to be stored. One round stores it all, but for a key that another transaction takes at the same moment.
  pending graphile_worker.job_spec[] := specs;
  keys text[];
  stored graphile_worker._private_jobs;
  stored_keys text[];
  stored_count bigint;
  -- A trigger may drop a row, or give it another key, and then a missing key proves nothing.
  may_drop_rows constant boolean := exists (
    select from pg_catalog.pg_trigger trigger
    where trigger.tgrelid = 'graphile_worker._private_jobs'::pg_catalog.regclass
      and trigger.tgenabled <> 'D'
      -- Bits of tgtype: 1 for each row, 2 before, 4 insert, 16 update.
      and trigger.tgtype::integer & 3 = 3
      and trigger.tgtype::integer & 20 <> 0
  );
begin
  -- Names first, and only the missing ones: an insert that conflicts burns an id of a 32-bit sequence.
  insert into graphile_worker._private_tasks (identifier)
  select distinct wanted.identifier
  from unnest(specs) as wanted
  where not exists (
    select from graphile_worker._private_tasks known where known.identifier = wanted.identifier
  )
  on conflict do nothing;

  insert into graphile_worker._private_job_queues (queue_name)
  select distinct wanted.queue_name
  from unnest(specs) as wanted
  where wanted.queue_name is not null
    and not exists (
      select from graphile_worker._private_job_queues known where known.queue_name = wanted.queue_name
    )
  on conflict do nothing;

  -- Delivered at commit. The count is of specs, so it over-reports when some become updates.
  perform pg_notify(
    'jobs:insert',
    '{"r":' || random()::text || ',"count":' || array_length(specs, 1)::text || '}'
  );

  for round in 1..50 loop
    keys := array(select distinct wanted.job_key from unnest(pending) as wanted where wanted.job_key is not null);
    if cardinality(keys) > 0 then
      -- Waits for claims that are under way, so that the next statement sees them. In one order, which is that of the client's
      -- batches too, so that two batches with the same keys do not deadlock.
      perform from graphile_worker._private_jobs taken where taken.key = any (keys) order by taken.key collate "C" for no key update;

      -- A job under this key that is running, or dead, is not changed any more: it gives up its key and will
      -- not run again, and a new job takes the key.
      update graphile_worker._private_jobs taken
      set key = null, attempts = taken.max_attempts, updated_at = now()
      where taken.key = any (keys)
        and taken.is_available is not true;
    end if;

    stored_keys := '{}';
    stored_count := 0;
    for stored in
      insert into graphile_worker._private_jobs as job (
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
      from unnest(pending) with ordinality as wanted(
        identifier, payload, queue_name, run_at, max_attempts, job_key, priority, flags, position
      )
      join graphile_worker._private_tasks task on task.identifier = wanted.identifier
      left join graphile_worker._private_job_queues queue on queue.queue_name = wanted.queue_name
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
      stored_count := stored_count + 1;
      if stored.key is not null then
        stored_keys := stored_keys || stored.key;
      end if;
    end loop;

    exit when cardinality(keys) = 0 or stored_count >= cardinality(pending);

    -- A key that came and was claimed between the lock and the insert was neither freed nor inserted. Go round again for it: now
    -- the first statement sees the claim. (Node's function drops such a job silently.) Where a trigger may have dropped the
    -- row, only if somebody does hold the key.
    pending := array(
      select wanted
      from unnest(pending) as wanted
      where wanted.job_key is not null
        and not exists (select from unnest(stored_keys) as stored_key where stored_key = wanted.job_key)
        and (
          not may_drop_rows
          or exists (
            select from graphile_worker._private_jobs taken
            where taken.key = wanted.job_key and taken.is_available is not true
          )
        )
    );
    exit when cardinality(pending) = 0;
    if round = 50 then
      raise exception using
        errcode = 'serialization_failure',
        message = format('%s jobs could not be stored: other transactions claimed the jobs that have their keys, again and again', cardinality(pending)),
        hint = 'Try again.';
    end if;
  end loop;
end;
$$;
