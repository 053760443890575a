-- Taking jobs by their lines. One function, so that one exchange takes jobs under planner settings of its own, as `backfill_claim` does.
--
-- A line is walked priority by priority: of each, what is ready is one piece of the index, so delayed jobs are never read.
--
-- What makes it safe beside any number of others:
-- * Jobs are locked with `for update skip locked`: two takers never consider the same row, and nobody waits.
-- * A serial queue is guarded by its row, which is locked the same way, and must be free. Beside that nothing is locked but what is chosen.
-- * In line, takers of one line go one after the other (an advisory lock). Each statement of this function sees what was committed before it
--   began, so what the one before has taken is seen. Of a group only a piece without gaps is taken that begins with its first job and
--   ends before a held one; a row that somebody has locked ends the piece.
create or replace function graphile_worker.backfill_take(
  -- A registered worker; null for a lease.
  worker text,
  -- What becomes `locked_by`, and for how long a lease lasts.
  holder text,
  lasts interval,
  -- Lines, and of each how many.
  lines text[],
  limits integer[],
  -- How many bytes of payloads, but one job always; null for any.
  byte_limit bigint,
  ready_by timestamptz,
  in_line boolean
)
-- The jobs as they are now, with the names that belong to them, and in line the order in which they were chosen. (The caller's statement may
-- be older than a task or a queue, so it could not look for them.)
returns table (place integer, job graphile_worker._private_jobs, task_name text, queue_name text)
language plpgsql
set jit = off
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_indexscan = on
set enable_indexonlyscan = on
set enable_sort = off
set enable_nestloop = on
set enable_hashjoin = off
set enable_mergejoin = off
set max_parallel_workers_per_gather = 0
as $$
#variable_conflict use_column
declare
  by_time timestamptz := coalesce(ready_by, now());
  held_at timestamptz := case when worker is null then clock_timestamp() + lasts else now() end;
  line record;
  want integer;
  -- A priority; before the first, less than any.
  level integer;
  -- Lines that have jobs in serial queues.
  grouped integer[] := '{}';
  is_grouped boolean;
  head record;
  -- How many jobs at the head of a line are looked at, and were.
  most integer;
  seen integer;
  found_ids bigint[];
  known bigint[];
  chosen bigint[] := '{}';
  chosen_of_line integer;
  queues integer[] := '{}';
  -- In line: candidates, each with what orders its group, and its place in that.
  group_id integer;
  groups integer[];
  asked integer;
  candidates bigint[];
  turns timestamptz[];
  first_priorities smallint[];
  first_times timestamptz[];
  first_ids bigint[];
  candidate_queues integer[];
  locked bigint[];
begin
  -- (See `backfill_claim` for these settings.)
  perform set_config('tcp_user_timeout', '10000', true);
  if current_setting('server_encoding') = 'SQL_ASCII' then
    perform set_config('client_encoding', 'SQL_ASCII', true);
  end if;
  if worker is not null then
    -- The worker's row keeps its rescuer out until we commit.
    perform from graphile_worker.backfill_pools pool where pool.id = worker and pool.seen_at > 'epoch' for key share;
    if not found then
      return;
    end if;
  end if;

  if in_line then
    -- In one order, so that two who ask for the same lines do not deadlock.
    perform pg_advisory_xact_lock(hashtextextended('line ' || 'graphile_worker._private_jobs'::regclass::oid, task.id)) from (
      select task.id from graphile_worker._private_tasks task where task.identifier = any (lines) order by task.id
    ) as task;
    -- What an ended lease holds stands before what is behind it.
    perform graphile_worker.backfill_end_leases(array(
      select job.id
      from graphile_worker._private_tasks task
      cross join lateral (
        select job.id from graphile_worker._private_jobs job
        where job.task_id = task.id and job.locked_at is not null and job.locked_at <= clock_timestamp()
          and starts_with(job.locked_by, 'lease:')
      ) as job
      where task.identifier = any (lines)
    ));
  else
    grouped := array(
      select task.id from graphile_worker._private_tasks task
      where task.identifier = any (lines)
        -- (In the order of the index of groups, so that it is by that one.)
        and (
          select job.job_queue_id from graphile_worker._private_jobs job
          where job.is_available = true and job.task_id = task.id and job.job_queue_id > 0
          order by job.job_queue_id
          limit 1
        ) is not null
    );
    -- Whoever takes of them in line ends first, or waits.
    perform pg_advisory_xact_lock_shared(hashtextextended('line ' || 'graphile_worker._private_jobs'::regclass::oid, task.id)) from (
      select unnest(grouped) as id order by 1
    ) as task;
  end if;

  for line in
    select task.id, wanted.most
    from unnest(lines, limits) with ordinality as wanted (name, most, number)
    join graphile_worker._private_tasks task on task.identifier = wanted.name
    where wanted.most > 0
    order by wanted.number
  loop
    want := line.most;
    chosen_of_line := 0;
    is_grouped := line.id = any (grouped);
    most := greatest(64, 4 * least(want, 1000000));
    seen := 0;
    if not in_line and is_grouped then
      -- The head of the line, in order. Nothing is locked but what is chosen, and its queue.
      level := -32769;
      loop
        level := (
          select job.priority from graphile_worker._private_jobs job
          where job.is_available = true and job.task_id = line.id and job.priority > level
          order by job.priority
          limit 1
        );
        exit when level is null or chosen_of_line >= want or seen >= most;
        for head in
          select job.id, job.job_queue_id
          from graphile_worker._private_jobs job
          where job.is_available = true and job.task_id = line.id and job.priority = level and job.run_at <= by_time
          order by job.run_at, job.id
          limit most - seen
        loop
          exit when chosen_of_line >= want;
          seen := seen + 1;
          if head.job_queue_id is not null then
            -- Of a queue its first job only, and only by whoever gets the queue.
            continue when head.job_queue_id = any (queues);
            queues := queues || head.job_queue_id;
            perform from graphile_worker._private_job_queues queue
            where queue.id = head.job_queue_id and queue.is_available
              -- Nor does somebody hold something of it in line.
              and not exists (
                select from graphile_worker._private_jobs held
                where held.task_id = line.id and held.job_queue_id = head.job_queue_id and held.locked_at is not null
              )
            for no key update of queue skip locked;
            continue when not found;
          end if;
          perform from graphile_worker._private_jobs job
          where job.id = head.id and job.is_available = true and job.run_at <= by_time
          for update of job skip locked;
          if found then
            chosen := chosen || head.id;
            chosen_of_line := chosen_of_line + 1;
          end if;
        end loop;
      end loop;
    end if;
    -- What has no queue: all that is wanted, or what is behind a head that is full of what waits behind others.
    if not in_line and (not is_grouped or (chosen_of_line < want and seen >= most)) then
      known := case when is_grouped then chosen else '{}' end;
      level := -32769;
      loop
        level := (
          select job.priority from graphile_worker._private_jobs job
          where job.is_available = true and job.task_id = line.id and job.priority > level
          order by job.priority
          limit 1
        );
        exit when level is null or chosen_of_line >= want;
        found_ids := array(
          select job.id
          from graphile_worker._private_jobs job
          where job.is_available = true and job.task_id = line.id and job.priority = level and job.run_at <= by_time
            and job.job_queue_id is null
            and job.id <> all (known)
          -- (In the order of the index of groups, where they stand together.)
          order by job.job_queue_id, job.priority, job.run_at, job.id
          limit want - chosen_of_line
          for update of job skip locked
        );
        chosen := chosen || found_ids;
        chosen_of_line := chosen_of_line + cardinality(found_ids);
      end loop;
    end if;
    -- Then each queue by its number, however much waits in one.
    if not in_line and is_grouped and chosen_of_line < want and seen >= most then
      group_id := 0;
      asked := 0;
      while chosen_of_line < want and asked < 10000 loop
        group_id := (
          select job.job_queue_id from graphile_worker._private_jobs job
          where job.is_available = true and job.task_id = line.id and job.job_queue_id is not null
            and job.job_queue_id > group_id
          order by job.job_queue_id
          limit 1
        );
        exit when group_id is null;
        asked := asked + 1;
        continue when group_id = any (queues);
        queues := queues || group_id;
        perform from graphile_worker._private_job_queues queue
        where queue.id = group_id and queue.is_available
          -- Nor does somebody hold something of it in line.
          and not exists (
            select from graphile_worker._private_jobs held
            where held.task_id = line.id and held.job_queue_id = group_id and held.locked_at is not null
          )
        for no key update of queue skip locked;
        continue when not found;
        found_ids := array(
          select job.id
          from graphile_worker._private_jobs job
          where job.is_available = true and job.task_id = line.id and job.job_queue_id = group_id
            and job.run_at <= by_time
          order by job.priority, job.run_at, job.id
          limit 1
          for update of job skip locked
        );
        chosen := chosen || found_ids;
        chosen_of_line := chosen_of_line + cardinality(found_ids);
      end loop;
    end if;
    if in_line then
      candidates := '{}';
      turns := '{}';
      first_priorities := '{}';
      first_times := '{}';
      first_ids := '{}';
      candidate_queues := '{}';
      groups := '{}';
      -- The groups at the head of the line, and jobs without one, which are each a group by itself.
      level := -32769;
      loop
        level := (
          select job.priority from graphile_worker._private_jobs job
          where job.is_available = true and job.task_id = line.id and job.priority > level
          order by job.priority
          limit 1
        );
        exit when level is null;
        if seen < most then
          select groups || coalesce(array_agg(head.job_queue_id) filter (where head.job_queue_id is not null), '{}'),
            seen + count(*)
          into groups, seen
          from (
            select job.job_queue_id
            from graphile_worker._private_jobs job
            where job.is_available = true and job.task_id = line.id and job.priority = level and job.run_at <= by_time
            order by job.run_at, job.id
            limit most - seen
          ) as head;
        end if;
        if cardinality(candidates) < want then
          select candidates || coalesce(array_agg(alone.id), '{}'),
            turns || coalesce(array_agg(null::timestamptz), '{}'),
            first_priorities || coalesce(array_agg(level::smallint), '{}'),
            first_times || coalesce(array_agg(alone.run_at), '{}'),
            first_ids || coalesce(array_agg(alone.id), '{}'),
            candidate_queues || coalesce(array_agg(null::integer), '{}')
          into candidates, turns, first_priorities, first_times, first_ids, candidate_queues
          from (
            select job.id, job.run_at
            from graphile_worker._private_jobs job
            where job.is_available = true and job.task_id = line.id and job.priority = level and job.run_at <= by_time
              and job.job_queue_id is null
            -- (In the order of the index of groups, where they stand together; in that of the line, groups may stand before them.)
            order by job.job_queue_id, job.priority, job.run_at, job.id
            limit want
            for update of job skip locked
          ) as alone;
        end if;
      end loop;
      -- Each group of these; and if they have too little, each group of the line, by number.
      asked := 0;
      group_id := 0;
      groups := array(select distinct queue from unnest(groups) as queue);
      seen := 1;
      loop
        if seen <= cardinality(groups) then
          group_id := groups[seen];
          seen := seen + 1;
        else
          exit when cardinality(candidates) >= want or asked >= 10000;
          if seen = cardinality(groups) + 1 then
            group_id := 0;
            seen := seen + 1;
          end if;
          group_id := (
            select job.job_queue_id from graphile_worker._private_jobs job
            where job.is_available = true and job.task_id = line.id and job.job_queue_id is not null
              and job.job_queue_id > group_id
            order by job.job_queue_id
            limit 1
          );
          exit when group_id is null;
          asked := asked + 1;
          continue when group_id = any (groups);
        end if;
        select candidates || piece.ids,
          turns || array_fill(
            (
              select turn.taken_at from graphile_worker.backfill_turns turn
              where turn.task_id = line.id and turn.job_queue_id = group_id
            ),
            array[cardinality(piece.ids)]
          ),
          first_priorities || array_fill(piece.priorities[1], array[cardinality(piece.ids)]),
          first_times || array_fill(piece.times[1], array[cardinality(piece.ids)]),
          first_ids || array_fill(piece.ids[1], array[cardinality(piece.ids)]),
          candidate_queues || array_fill(group_id, array[cardinality(piece.ids)])
        into candidates, turns, first_priorities, first_times, first_ids, candidate_queues
        from (
          select coalesce(array_agg(job.id), '{}') as ids, array_agg(job.priority) as priorities, array_agg(job.run_at) as times
          from (
            select job.id, job.priority, job.run_at
            from graphile_worker._private_jobs job
            where job.is_available = true
              and job.task_id = line.id
              and job.job_queue_id = group_id
              and job.run_at <= by_time
              and (job.priority, job.run_at, job.id) < (
                select coalesce(first.priority, 32767), coalesce(first.run_at, 'infinity'), coalesce(first.id, 0)
                from (values (1)) as one
                left join lateral (
                  select held.priority, held.run_at, held.id
                  from graphile_worker._private_jobs held
                  where held.task_id = line.id and held.job_queue_id = group_id and held.locked_at is not null
                  order by held.priority, held.run_at, held.id
                  limit 1
                ) as first on true
              )
            order by job.priority, job.run_at, job.id
            limit want
          ) as job
        ) as piece;
      end loop;
      -- The groups take turns; then what can be locked, of each group up to the first that cannot.
      candidates := array(
        select candidate.id
        from unnest(candidates, turns, first_priorities, first_times, first_ids, candidate_queues) with ordinality
          as candidate (id, turn, priority, run_at, first_id, queue, number)
        order by candidate.turn nulls first, candidate.priority, candidate.run_at, candidate.first_id, candidate.number
        limit want
      );
      locked := array(
        select job.id from graphile_worker._private_jobs job
        where job.id = any (candidates) and job.is_available = true
        for update of job skip locked
      );
      chosen := chosen || array(
        select candidate.id
        from (
          select wanted.id, wanted.number,
            bool_and(wanted.id = any (locked)) over (
              partition by coalesce(job.job_queue_id::bigint, -job.id) order by wanted.number
            ) as is_whole
          from unnest(candidates) with ordinality as wanted (id, number)
          join graphile_worker._private_jobs job on job.id = wanted.id
        ) as candidate
        where candidate.is_whole
        order by candidate.number
      );
    end if;
  end loop;

  if byte_limit is not null and cardinality(chosen) > 1 then
    chosen := array(
      select sized.id
      from (
        select wanted.id, wanted.number,
          sum(octet_length(job.payload::text)) over (order by wanted.number) as bytes
        from unnest(chosen) with ordinality as wanted (id, number)
        join graphile_worker._private_jobs job on job.id = wanted.id
      ) as sized
      where sized.number = 1 or sized.bytes <= byte_limit
      order by sized.number
    );
  end if;
  if chosen = '{}' then
    return;
  end if;

  return query
  with taken as (
    update graphile_worker._private_jobs job
    set attempts = job.attempts + 1, locked_by = holder, locked_at = held_at
    where job.id = any (chosen)
    returning case when in_line then array_position(chosen, job.id) end as place, job
  ),
  held_queue as (
    update graphile_worker._private_job_queues queue
    set locked_by = holder, locked_at = held_at
    where not in_line
      and cardinality(queues) > 0
      -- A trigger of the user's may have left the jobs out, and a queue without a job would be freed by nobody.
      and queue.id = any (array(select (taken.job).job_queue_id from taken))
  ),
  turn as (
    insert into graphile_worker.backfill_turns (task_id, job_queue_id, taken_at)
    select distinct (taken.job).task_id, (taken.job).job_queue_id, now()
    from taken
    where in_line and (taken.job).job_queue_id is not null
    on conflict on constraint backfill_turns_pkey do update set taken_at = excluded.taken_at
  )
  select taken.place, taken.job, task.identifier, queue.queue_name
  from taken
  join graphile_worker._private_tasks task on task.id = (taken.job).task_id
  left join graphile_worker._private_job_queues queue on queue.id = (taken.job).job_queue_id;
end;
$$;

-- Gives back what ended leases hold, of these jobs: where it stood, with its attempt used. Whoever has locked one keeps that one.
-- Answers what was given back.
create or replace function graphile_worker.backfill_end_leases(ids bigint[])
returns table (id bigint, task text)
language sql
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
  with due as materialized (
    select job.id, job.job_queue_id, job.locked_by
    from graphile_worker._private_jobs job
    where job.id = any (ids)
      and job.locked_at <= clock_timestamp()
      and starts_with(job.locked_by, 'lease:')
    order by job.id
    for no key update skip locked
  ),
  freed as (
    update graphile_worker._private_job_queues queue
    set locked_by = null, locked_at = null
    from due
    where queue.id = due.job_queue_id and queue.locked_by = due.locked_by
  ),
  ended as (
    update graphile_worker._private_jobs job
    set locked_by = null, locked_at = null
    where job.id = any (array(select due.id from due))
    returning job.id, job.task_id
  )
  select ended.id, task.identifier
  from ended
  join graphile_worker._private_tasks task on task.id = ended.task_id
$$;
