-- Looking at lines. Functions, so that they are planned under settings of their own, whatever a role has set.

-- How many jobs of each of these lines are ready, delayed and held, in the order of the lines; counting of each ends at so many.
--
-- Priority by priority, each of which has its ready jobs before its delayed ones in the index: what is counted is what is read. (For a
-- thousand lines the statement looks so dear that it would be compiled, at every call.)
create or replace function graphile_worker.backfill_depths(lines text[], beyond bigint)
returns table (ready bigint, delayed bigint, held bigint)
language sql
stable
set jit = off
set enable_seqscan = off
set enable_bitmapscan = off
set enable_nestloop = on
set enable_hashjoin = off
set enable_mergejoin = off
set max_parallel_workers_per_gather = 0
as $$
  select
    coalesce(counted.ready, 0) as ready,
    coalesce(counted.delayed, 0) as delayed,
    (
      select count(*)
      from (
        select from graphile_worker._private_jobs job where job.task_id = task.id and job.locked_at is not null limit beyond
      ) as held
    ) as held
  from unnest(lines) with ordinality as wanted (line, number)
  left join graphile_worker._private_tasks task on task.identifier = wanted.line
  left join lateral (
    with recursive level (value) as (
      select (
        select job.priority::integer from graphile_worker._private_jobs job
        where job.is_available = true and job.task_id = task.id
        order by job.priority
        limit 1
      )
      union all
      select (
        select job.priority::integer from graphile_worker._private_jobs job
        where job.is_available = true and job.task_id = task.id and job.priority > level.value
        order by job.priority
        limit 1
      )
      from level
      where level.value is not null
    )
    select sum(of_level.ready)::bigint as ready, sum(of_level.delayed)::bigint as delayed
    from level
    cross join lateral (
      select
        (
          select count(*)
          from (
            select from graphile_worker._private_jobs job
            where job.is_available = true and job.task_id = task.id and job.priority = level.value and job.run_at <= now()
            limit beyond
          ) as ready
        ) as ready,
        (
          select count(*)
          from (
            select from graphile_worker._private_jobs job
            where job.is_available = true and job.task_id = task.id and job.priority = level.value and job.run_at > now()
            limit beyond
          ) as delayed
        ) as delayed
    ) as of_level
    where level.value is not null
  ) as counted on true
  order by wanted.number
$$;

-- The first ready jobs of a line, as they stand.
create or replace function graphile_worker.backfill_peek(line text, most bigint)
returns setof graphile_worker._private_jobs
language sql
stable
set jit = off
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
set enable_nestloop = on
set enable_hashjoin = off
set enable_mergejoin = off
set max_parallel_workers_per_gather = 0
as $$
  with recursive named as materialized (
    select task.id from graphile_worker._private_tasks task where task.identifier = line
  ),
  level (value) as (
    select (
      select job.priority::integer from graphile_worker._private_jobs job
      where job.is_available = true and job.task_id = (select named.id from named)
      order by job.priority
      limit 1
    )
    union all
    select (
      select job.priority::integer from graphile_worker._private_jobs job
      where job.is_available = true and job.task_id = (select named.id from named) and job.priority > level.value
      order by job.priority
      limit 1
    )
    from level
    where level.value is not null
  )
  select job.*
  from level
  cross join lateral (
    select job.*
    from graphile_worker._private_jobs job
    where job.is_available = true and job.task_id = (select named.id from named) and job.priority = level.value and job.run_at <= now()
    order by job.run_at, job.id
    limit most
  ) as job
  where level.value is not null
  limit most
$$;
