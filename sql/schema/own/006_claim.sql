-- Taking jobs. One function, so that one exchange takes jobs under planner settings of its own: no size of the table, no statistics, no
-- other index, and no setting of a role, a database or the server can make a claim sort the table, read it as a whole, or be compiled.
-- `set` pins them before anything in here is planned, on every connection, and puts them back at the end.
--
-- Workers of two versions run side by side: a change of what this is told or answers gets another name.
--
-- What makes it safe beside any number of other claimers, ours or Node's:
-- * Jobs without a queue are locked with `for update skip locked`: two claimers never consider the same row.
-- * A serial queue is guarded by its row. Its jobs are looked at in one snapshot, without locks. Then the row is locked, must be free
--   under that lock, and only then are the first jobs locked, which must be as they were seen. So who gets the queue takes its first
--   ready job, or leaves the queue alone.
-- * Nobody waits for a job or a queue: each such lock is taken or skipped, so claimers cannot deadlock.
-- * Where nothing can be taken, nothing is locked or written.
create or replace function graphile_worker.backfill_claim(
  worker text,
  task_names text[],
  -- How many jobs that can run side by side; of one queue, to be run one after the other; and in all.
  want integer,
  run_length integer,
  want_in_all integer,
  -- How many bytes of payloads, but one job always.
  byte_limit bigint,
  -- How many can start at once: a job in its last attempt is taken only if it is among the first so many.
  slots integer,
  -- Of some tasks, how many.
  limited text[],
  rooms integer[],
  forbidden text[],
  ready_by timestamptz,
  -- Try first to take jobs without queues as they are: right nearly always, and cheap.
  try_plain boolean,
  -- Jobs without queues: what stands before this place and was ready at that time is passed by. The look ends after so many rows;
  -- null for no end.
  plain_priority smallint,
  plain_time timestamptz,
  plain_since timestamptz,
  plain_rows integer,
  -- The same for jobs of queues. Of these queues something was passed by, so they are left alone.
  queue_priority smallint,
  queue_time timestamptz,
  queue_since timestamptz,
  queue_rows integer,
  passed integer[],
  -- The priorities of which something was passed by. Between them there was nothing, or what is dead: of that nothing is read but the
  -- index.
  levels smallint[],
  -- These queues were freed, of which nobody else has heard: notify all workers if the next job of one is for others.
  freed text[]
)
-- Rows of several kinds, told apart by what is null: one that tells how it went (it comes first), names of tasks, names of queues,
-- and jobs.
returns table (
  id bigint,
  task_id integer,
  queue_id integer,
  text text,
  priority smallint,
  run_at timestamptz,
  attempts smallint,
  max_attempts smallint,
  last_error text,
  created_at timestamptz,
  updated_at timestamptz,
  key text,
  revision integer,
  flags text,
  -- The moment of the claim.
  locked_at timestamptz,
  -- Was something left that another claim may find? Was it left because jobs in their last attempt have to wait for a slot?
  more boolean,
  last_left boolean,
  -- What stands before this was looked at and cannot be taken now: where a look ended for its number of rows, or the end of the line
  -- (32767, 9999-12-31), which a look that is bounded tells if it reached it and found nothing. And how long the looks took.
  plain_end_priority smallint,
  plain_end_time timestamptz,
  plain_took interval,
  queue_end_priority smallint,
  queue_end_time timestamptz,
  queue_took interval,
  -- The queues of which something stands before that end.
  seen_queues integer[],
  -- The priorities that were looked at and are not among those that were told.
  seen_levels smallint[]
)
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
  begun timestamptz := clock_timestamp();
  by_time timestamptz := coalesce(ready_by, now());
  tells boolean := cardinality(freed) > 0;
  served integer[];
  -- A short array is looked through for each job; a long one is hashed.
  few boolean;
  -- The jobs without queues that were found, locked.
  plain_ids bigint[] := '{}';
  plain_count integer := 0;
  plain_ok boolean := true;
  stored_bytes bigint := 0;
  -- Of one priority.
  level integer;
  next_known integer;
  line_levels smallint[];
  from_time timestamptz;
  to_time timestamptz;
  found_ids bigint[];
  found_count integer;
  found_ok boolean;
  found_bytes bigint;
  run_bytes bigint := 0;
  found_last timestamptz;
  rows_left integer := plain_rows;
  rows_walked integer;
  -- The last of as many jobs without queues as are wanted: of queues, nothing is wanted that stands behind it.
  last_priority smallint;
  last_time timestamptz;
  -- The jobs of queues that were found, locked with their queues.
  run_ids bigint[] := '{}';
  run_queues integer[] := '{}';
  run_count integer := 0;
  run_ok boolean := true;
  -- The first jobs of queues as they were seen.
  seen_ids bigint[];
  seen_of integer[];
  seen_priorities smallint[];
  seen_times timestamptz[];
  seen_attempts smallint[];
  seen_lasts boolean[];
  seen_sizes integer[];
  seen_ranks bigint[];
  -- The first job of each queue, whether it may be taken or not.
  first_of integer[];
  first_priorities smallint[];
  first_times timestamptz[];
  -- What stood far down the line, and the first that was taken.
  deep_priority smallint;
  deep_time timestamptz;
  first_priority smallint;
  first_time timestamptz;
  -- Where the look was cut.
  cut_priority smallint;
  cut_time timestamptz;
  cut_is_whole boolean;
  -- The queues there of which nothing was seen, because they are held.
  closed integer[];
  are_for_others boolean;
  is_contended boolean := false;
  is_full boolean := false;
begin
  locked_at := now();
  more := false;
  last_left := false;
  select array_agg(task.id) into served
  from graphile_worker._private_tasks task
  where task.identifier = any (task_names);
  if served is null or want <= 0 then
    return next;
    return;
  end if;
  few := cardinality(served) <= 16;

  -- "ok" below: may they be taken as they are? Not without a second look if one has its last attempt before it. How many bytes they are is
  -- looked at closely if they may be too many. (What is stored may be compressed, but never to a three-hundredth.)
  if try_plain then
    -- The queue's state is asked row by row (a scalar subquery cannot be turned into a hash of all queues), so the cost does not grow
    -- with the number of queues.
    select array_agg(candidate.id), count(*),
      bool_and(candidate.job_queue_id is null and not candidate.is_last), sum(candidate.size)
    into plain_ids, plain_count, plain_ok, stored_bytes
    from (
      select job.id, job.job_queue_id, job.attempts + 1 >= job.max_attempts as is_last, pg_column_size(job.payload) as size
      from graphile_worker._private_jobs job
      where job.is_available = true
        and job.run_at <= by_time
        and case when few then job.task_id = any (served) else job.task_id in (select unnest(served)) end
        and (
          job.job_queue_id is null
          or (select queue.is_available from graphile_worker._private_job_queues queue where queue.id = job.job_queue_id)
        )
        and (forbidden is null or job.flags is null or not job.flags ?| forbidden)
      order by job.priority, job.run_at
      limit want
      for update of job skip locked
    ) as candidate;
    plain_took := clock_timestamp() - begun;
    if plain_count = 0 then
      -- What another claim has locked at this moment it may leave.
      more := exists (
        select from graphile_worker._private_jobs job
        where job.is_available = true
          and job.run_at <= by_time
          and case when few then job.task_id = any (served) else job.task_id in (select unnest(served)) end
          and (
            job.job_queue_id is null
            or (select queue.is_available from graphile_worker._private_job_queues queue where queue.id = job.job_queue_id)
          )
          and (forbidden is null or job.flags is null or not job.flags ?| forbidden)
        order by job.priority, job.run_at
        limit 1
      );
      return next;
      return;
    end if;
    more := plain_count >= want;
    if plain_ok and stored_bytes > byte_limit / 300 then
      plain_ok := byte_limit >= (
        select sum(octet_length(job.payload::text)) from graphile_worker._private_jobs job where job.id = any (plain_ids)
      );
    end if;
  end if;

  if not try_plain or not plain_ok then
    more := false;
    begun := clock_timestamp();
    plain_ids := '{}';
    plain_count := 0;
    plain_ok := true;
    stored_bytes := 0;
    -- Priority by priority, each through its part of the index up to the present: jobs of the future are not even looked at.
    level := -32769;
    loop
      -- The next priority. To find it from the start of the line would be to walk over whatever is dead there; so before the place where
      -- the look begins, the known ones are taken, and what became ready between them.
      if level < plain_priority then
        next_known := coalesce(
          (select min(known) from unnest(levels) as known where known > level and known < plain_priority),
          plain_priority
        );
        level := coalesce(
          (
            select job.priority from graphile_worker._private_jobs job
            where job.is_available = true and job.job_queue_id is null
              and job.priority > level and job.priority < next_known and job.run_at >= plain_since
            order by job.priority
            limit 1
          ),
          next_known
        );
      else
        level := (
          select job.priority from graphile_worker._private_jobs job
          where job.is_available = true and job.job_queue_id is null and job.priority > level
          order by job.priority
          limit 1
        );
      end if;
      exit when level is null or plain_count >= want or (rows_left > 0) is false;
      if (level = any (levels)) is not true then
        seen_levels := seen_levels || level::smallint;
      end if;
      from_time := case
        when level < plain_priority then plain_since
        when level = plain_priority then plain_time
        else '-infinity'
      end;
      to_time := by_time;
      if rows_left is not null then
        select count(*), max(walked.run_at) into rows_walked, plain_end_time
        from (
          select job.run_at
          from graphile_worker._private_jobs job
          where job.is_available = true and job.job_queue_id is null
            and job.priority = level and job.run_at >= from_time and job.run_at <= by_time
          order by job.run_at
          limit rows_left
        ) as walked;
        rows_left := rows_left - rows_walked;
        if rows_left = 0 then
          plain_end_priority := level;
          to_time := plain_end_time;
        end if;
      end if;
      select array_agg(candidate.id), count(*),
        bool_and(not candidate.is_last), sum(candidate.size), max(candidate.run_at)
      into found_ids, found_count, found_ok, found_bytes, found_last
      from (
        select job.id, job.run_at, job.attempts + 1 >= job.max_attempts as is_last, pg_column_size(job.payload) as size
        from graphile_worker._private_jobs job
        where job.is_available = true
          and job.job_queue_id is null
          and job.priority = level
          and job.run_at >= from_time
          and job.run_at <= to_time
          and case when few then job.task_id = any (served) else job.task_id in (select unnest(served)) end
          and (forbidden is null or job.flags is null or not job.flags ?| forbidden)
        order by job.run_at
        limit want - plain_count
        for update of job skip locked
      ) as candidate;
      if found_count > 0 then
        plain_ok := plain_ok and found_ok;
        stored_bytes := stored_bytes + found_bytes;
        plain_ids := plain_ids || found_ids;
        plain_count := plain_count + found_count;
        last_priority := level;
        last_time := found_last;
      end if;
    end loop;
    if plain_count >= want then
      more := true;
      plain_end_priority := null;
    elsif plain_end_priority is not null then
      more := true;
      -- Everything of that moment was looked at.
      plain_end_time := plain_end_time + interval '1 microsecond';
    elsif plain_rows is not null and plain_count = 0 then
      plain_end_priority := 32767;
      plain_end_time := '9999-12-31 00:00:00Z';
    end if;
    if plain_count < want then
      last_priority := null;
    end if;
    plain_took := clock_timestamp() - begun;

    begun := clock_timestamp();
    with recursive line_level (value) as (
      select -32769
      union all
      -- The next one, as above.
      select case
        when line_level.value < queue_priority then coalesce(
          (
            select job.priority from graphile_worker._private_jobs job
            where job.is_available = true
              and job.priority > line_level.value
              and job.priority < coalesce(
                (select min(known) from unnest(levels) as known where known > line_level.value and known < queue_priority),
                queue_priority
              )
              and job.run_at >= queue_since
            order by job.priority
            limit 1
          ),
          (select min(known) from unnest(levels) as known where known > line_level.value and known < queue_priority),
          queue_priority
        )
        else (
          select job.priority from graphile_worker._private_jobs job
          where job.is_available = true and job.priority > line_level.value
          order by job.priority
          limit 1
        )
      end
      from line_level
      where line_level.value is not null and (tells or (line_level.value < last_priority) is not false)
    ),
    -- What stands in line, of whatever kind and for whomever.
    line as materialized (
      select job.*
      from line_level
      cross join lateral (
        select job.id, job.job_queue_id, job.priority, job.run_at, job.attempts,
          case when few then job.task_id = any (served) else job.task_id in (select unnest(served)) end as is_served,
          forbidden is null or job.flags is null or not job.flags ?| forbidden as is_allowed,
          job.attempts + 1 >= job.max_attempts as is_last,
          -- Whether it could start after another one is not known of these.
          job.attempts + 1 < job.max_attempts and job.task_id not in (
            select task.id from graphile_worker._private_tasks task where task.identifier = any (limited)
          ) as may_follow,
          pg_column_size(job.payload) as size
        from graphile_worker._private_jobs job
        where job.is_available = true
          and job.priority = line_level.value
          and job.run_at >= case
            when line_level.value < queue_priority then queue_since
            when line_level.value = queue_priority then queue_time
            else '-infinity'
          end
          and job.run_at <= case
            when tells or last_priority is null or line_level.value < last_priority then by_time
            when line_level.value = last_priority then last_time
            else '-infinity'
          end
        order by job.run_at
      ) as job
      limit queue_rows
    ),
    -- Where it was cut, jobs of the same moment may have been cut off that come first by their numbers. A look that is all of one moment
    -- could not go on behind it; a long one takes the whole moment.
    cut as materialized (
      select line.priority, line.run_at,
        queue_rows >= 10000
          and (select (f.priority, f.run_at) from line f limit 1) = (line.priority, line.run_at) as is_whole
      from line
      offset queue_rows - 1
    ),
    -- Of that moment all jobs of a queue are read, if the queue may be taken; then the moment is read once more. Whoever holds many
    -- jobs of one moment in a queue makes others read no more than which queues there are.
    cut_queue as materialized (
      select queue.id, queue.is_available and queue.id not in (select unnest(passed)) as is_open
      from (
        select line.job_queue_id as id
        from line
        where (line.priority, line.run_at) = (select cut.priority, cut.run_at from cut) and not (select cut.is_whole from cut)
        union
        select job.job_queue_id
        from graphile_worker._private_jobs job
        where job.is_available = true
          and (select cut.is_whole from cut)
          and job.priority = (select cut.priority from cut)
          and job.run_at = (select cut.run_at from cut)
      ) as at_cut
      cross join lateral (
        select queue.id, queue.is_available
        from graphile_worker._private_job_queues queue
        where queue.id = at_cut.id
        limit 1
      ) as queue
    ),
    seen as (
      select line.*
      from line
      where line.job_queue_id is not null
        and ((line.priority, line.run_at) = (select cut.priority, cut.run_at from cut)) is not true
      union all
      select job.id, job.job_queue_id, job.priority, job.run_at, job.attempts,
          case when few then job.task_id = any (served) else job.task_id in (select unnest(served)) end as is_served,
          forbidden is null or job.flags is null or not job.flags ?| forbidden as is_allowed,
          job.attempts + 1 >= job.max_attempts as is_last,
          -- Whether it could start after another one is not known of these.
          job.attempts + 1 < job.max_attempts and job.task_id not in (
            select task.id from graphile_worker._private_tasks task where task.identifier = any (limited)
          ) as may_follow,
          pg_column_size(job.payload) as size
      from graphile_worker._private_jobs job
      where job.is_available = true
        and exists (select from cut_queue where cut_queue.is_open)
        and job.priority = (select cut.priority from cut)
        and job.run_at = (select cut.run_at from cut)
        and job.job_queue_id in (select cut_queue.id from cut_queue where cut_queue.is_open)
    ),
    -- The first jobs of each queue. Of those behind the first, each must be one that may follow, and so must all before it.
    ranked as materialized (
      select seen.*,
        row_number() over of_queue as rank,
        bool_and(seen.is_served and seen.is_allowed) over of_queue as are_ours,
        count(*) filter (where not seen.may_follow) over of_queue - (not first_value(seen.may_follow) over of_queue)::integer as stops
      from seen
      window of_queue as (partition by seen.job_queue_id order by seen.priority, seen.run_at, seen.id)
    ),
    open_queue as materialized (
      select first.job_queue_id as id
      from ranked first
      where first.rank = 1
        and first.are_ours
        and first.job_queue_id not in (select unnest(passed))
        and (
          select queue.is_available from graphile_worker._private_job_queues queue where queue.id = first.job_queue_id
        )
    ),
    told as materialized (
      select
        array_agg(judged.id) as ids,
        array_agg(judged.job_queue_id) as queues,
        array_agg(judged.priority) as priorities,
        array_agg(judged.run_at) as times,
        array_agg(judged.attempts) as attempts,
        array_agg(judged.is_last) as lasts,
        array_agg(judged.size) as sizes,
        array_agg(judged.rank) as ranks
      from ranked judged
      where judged.rank <= run_length
        and judged.are_ours
        and judged.stops = 0
        -- (As it stands, it is hashed, and not made a join. The same below: with the statistics of an empty table, a join may become
        -- anything.)
        and (judged.job_queue_id in (select open_queue.id from open_queue)) is true
    ),
    told_first as materialized (
      select
        array_agg(first.job_queue_id) as queues,
        array_agg(first.priority) as priorities,
        array_agg(first.run_at) as times
      from ranked first
      where first.rank = 1
    )
    select
      told.ids, told.queues, told.priorities, told.times, told.attempts, told.lasts, told.sizes, told.ranks,
      told_first.queues, told_first.priorities, told_first.times,
      deep.priority, deep.run_at,
      (select cut.priority from cut),
      (select cut.run_at from cut),
      (select cut.is_whole from cut),
      (select array_agg(cut_queue.id) from cut_queue where not cut_queue.is_open),
      tells and exists (
        select from ranked
        where ranked.rank = 1
          and not ranked.is_served
          and (
            select queue.is_available and queue.queue_name = any (freed)
            from graphile_worker._private_job_queues queue
            where queue.id = ranked.job_queue_id
          )
      ),
      (select array_agg(line_level.value) from line_level where line_level.value >= -32768)
    into seen_ids, seen_of, seen_priorities, seen_times, seen_attempts, seen_lasts, seen_sizes, seen_ranks,
      first_of, first_priorities, first_times, deep_priority, deep_time, cut_priority, cut_time, cut_is_whole, closed, are_for_others, line_levels
    from told
    cross join told_first
    -- From here on, looks begin behind what was left.
    left join (select line.priority, line.run_at from line offset 500 limit 1) as deep on true;

    -- A statement of its own, because its snapshot shows what others have taken meanwhile. A row that was changed after the snapshot is
    -- read and judged anew once it is locked, which takes as long as forty others; and who does that for thousands of queues is
    -- overtaken by the next claims again and again.
    if seen_ids is not null then
      with judged as materialized (
        select judged.*
        from unnest(
          seen_ids, seen_of, seen_priorities, seen_times, seen_attempts, seen_lasts, seen_sizes, seen_ranks
        ) as judged (id, queue_id, priority, run_at, attempts, is_last, size, rank)
      ),
      head as materialized (
        select judged.queue_id, judged.id
        from judged
        where judged.rank = 1
        order by judged.priority, judged.run_at, judged.id
      ),
      -- Reading is_available under the lock: a queue that was taken since the snapshot drops out here. So does one whose first job is
      -- locked. (Subqueries that lock are never made joins, and are gone through in the order of the heads.)
      free_queue as materialized (
        select queue.id
        from head
        cross join lateral (
          select queue.id
          from graphile_worker._private_job_queues queue
          where queue.id = head.queue_id and queue.is_available = true
          for update skip locked
        ) as queue
        cross join lateral (
          select job.id
          from graphile_worker._private_jobs job
          where job.id = head.id and job.locked_at is null and job.attempts < job.max_attempts
          for update skip locked
        ) as first_job
        limit want
      ),
      wanted as materialized (
        select judged.*
        from judged
        where (judged.queue_id in (select free_queue.id from free_queue)) is true
        -- All first ones, then the second ones, and so on.
        order by judged.rank, judged.priority, judged.run_at, judged.id
        limit want_in_all
      ),
      locked as materialized (
        select job.id
        from graphile_worker._private_jobs job
        where job.id = any (array(select wanted.id from wanted))
          -- Available, in words that leave no index to be used but that of the ids; and as it was seen.
          and job.locked_at is null
          and job.attempts < job.max_attempts
          and (
            (job.id, job.job_queue_id, job.priority, job.run_at, job.attempts) in (
              select wanted.id, wanted.queue_id, wanted.priority, wanted.run_at, wanted.attempts from wanted
            )
          ) is true
        for update of job skip locked
      ),
      -- Where somebody else has one, nothing behind it.
      gap as materialized (
        select wanted.queue_id, min(wanted.rank) as rank
        from wanted
        where (wanted.id in (select locked.id from locked)) is not true
        group by wanted.queue_id
      ),
      run as materialized (
        select wanted.*
        from wanted
        where (wanted.queue_id in (select gap.queue_id from gap)) is not true
          or wanted.rank < (select gap.rank from gap where gap.queue_id = wanted.queue_id)
      )
      select
        (select count(*) from head) > count(*) filter (where run.rank = 1),
        (select count(*) from head) >= want,
        coalesce(array_agg(run.id), '{}'),
        coalesce(array_agg(run.queue_id) filter (where run.rank = 1), '{}'),
        coalesce(bool_and(not run.is_last), true),
        coalesce(sum(run.size), 0),
        min(run.priority),
        min(run.run_at) filter (where run.priority = (select min(run.priority) from run))
      into is_contended, is_full, run_ids, run_queues, run_ok, run_bytes, first_priority, first_time
      from run;
    end if;

    if cardinality(run_ids) > 0 then
      if (first_priority, first_time) >= (deep_priority, deep_time) then
        queue_end_priority := first_priority;
        queue_end_time := first_time;
      end if;
    elsif cut_priority is not null then
      if ((cut_priority, cut_time) <= (last_priority, last_time)) is not false then
        queue_end_priority := cut_priority;
        queue_end_time := cut_time + case when cut_is_whole then interval '1 microsecond' else interval '0' end;
      end if;
    elsif last_priority is null then
      if queue_priority is not null then
        queue_end_priority := 32767;
        queue_end_time := '9999-12-31 00:00:00Z';
      end if;
    -- As far as the other look. Where looks are cheap, there is no need to begin anywhere but at the start.
    elsif coalesce((last_priority, last_time) > (queue_priority, queue_time), clock_timestamp() - begun > interval '1 millisecond') then
      queue_end_priority := last_priority;
      queue_end_time := last_time;
    end if;
    if queue_end_priority is not null then
      seen_queues := (
        select array_agg(first.queue_id)
        from unnest(first_of, first_priorities, first_times) as first (queue_id, priority, run_at)
        where (first.priority, first.run_at) < (queue_end_priority, queue_end_time)
      );
      if (cut_priority, cut_time) < (queue_end_priority, queue_end_time) then
        seen_queues := seen_queues || closed;
      end if;
    end if;
    seen_levels := (
      select array_agg(distinct seen.level)
      from unnest(seen_levels || line_levels) as seen (level)
      where (seen.level = any (levels)) is not true
    );
    run_count := cardinality(run_queues);
    if are_for_others then
      perform pg_notify('jobs:insert', '{"r":' || random()::text || ',"back":true,"count":1}');
    end if;
    more := more or cut_priority is not null or is_contended or is_full;
    queue_took := clock_timestamp() - begun;

    if plain_count + run_count = 0 then
      return next;
      return;
    end if;

    if plain_count + run_count > want
      or not plain_ok
      or not run_ok
      or cardinality(limited) > 0
      or (
        stored_bytes + run_bytes > byte_limit / 300
        and byte_limit < (
          select sum(octet_length(job.payload::text))
          from graphile_worker._private_jobs job
          where job.id = any (plain_ids || run_ids)
        )
      )
    then
      -- Not all as they are.
      with mine as materialized (
        select job.id, job.job_queue_id, job.task_id, job.priority, job.run_at,
          job.attempts + 1 >= job.max_attempts as is_last,
          octet_length(job.payload::text) as bytes,
          case when job.job_queue_id is null then job.id end as alone
        from graphile_worker._private_jobs job
        where job.id = any (plain_ids || run_ids)
      ),
      -- What can run side by side: jobs without a queue, and queues. Each stands where its first job does.
      ordered as materialized (
        select mine.*,
          row_number() over of_unit as rank,
          first_value(mine.priority) over of_unit as unit_priority,
          first_value(mine.run_at) over of_unit as unit_run_at,
          first_value(mine.id) over of_unit as unit_id
        from mine
        window of_unit as (partition by mine.job_queue_id, mine.alone order by mine.priority, mine.run_at, mine.id)
      ),
      room as materialized (
        select task.id as task_id, given.room
        from unnest(limited, rooms) as given (identifier, room)
        join graphile_worker._private_tasks task on task.identifier = given.identifier
      ),
      -- Beyond the limit of their task. A claim that meets the limit takes something, and the next one leaves the task out, so this never
      -- turns in circles.
      excess as materialized (
        select placed.unit_id
        from (
          select ordered.unit_id, ordered.task_id,
            row_number() over (
              partition by ordered.task_id order by ordered.unit_priority, ordered.unit_run_at, ordered.unit_id
            ) as place
          from ordered
          where ordered.rank = 1 and ordered.task_id in (select room.task_id from room)
        ) as placed
        join room on room.task_id = placed.task_id
        where placed.place > room.room
      ),
      numbered as materialized (
        select ordered.*,
          dense_rank() over (order by ordered.unit_priority, ordered.unit_run_at, ordered.unit_id) as unit,
          sum(ordered.bytes) over (
            order by ordered.unit_priority, ordered.unit_run_at, ordered.unit_id, ordered.rank
          ) as so_far
        from ordered
        where ordered.unit_id not in (select excess.unit_id from excess)
      ),
      judged as materialized (
        select numbered.*,
          numbered.so_far > byte_limit and numbered.so_far > numbered.bytes as is_heavy,
          bool_or(numbered.is_last and numbered.unit > slots) over (order by numbered.unit) as is_behind
        from numbered
        where numbered.unit <= want
      )
      select
        coalesce(array_agg(judged.id) filter (where not judged.is_heavy and not judged.is_behind), '{}'),
        coalesce(
          array_agg(judged.job_queue_id)
            filter (where judged.rank = 1 and judged.job_queue_id is not null and not judged.is_heavy and not judged.is_behind),
          '{}'
        ),
        more or coalesce(bool_or(judged.is_heavy or judged.is_behind), false) or plain_count + run_count > want,
        coalesce(bool_or(judged.is_behind), false)
      into plain_ids, run_queues, more, last_left
      from judged;
      -- What was found and left must not be passed by.
      plain_end_priority := null;
      if cardinality(plain_ids) = 0 then
        return next;
        return;
      end if;
    else
      plain_ids := plain_ids || run_ids;
    end if;
  end if;

  -- Only a registered worker may claim: one that was taken for dead must not hold anything that nobody would rescue. The lock keeps a
  -- rescuer (who marks the row) out until we commit, and does not disturb the heartbeat (which does not touch the key). The answer is
  -- sent before the transaction ends. Where nobody takes it (a process that is stopped, a machine that is gone), the server's system
  -- gives the connection up after these milliseconds, and with it all locks; it would wait for a quarter of an hour, or for ever. For
  -- this transaction only, so nothing stays behind in a pooler.
  perform from graphile_worker.backfill_pools pool
  where pool.id = worker
    and pool.seen_at > 'epoch'
    and set_config('tcp_user_timeout', '10000', true) is not null
    -- Such a server keeps whatever bytes it is given, and refuses to send some of them to whoever expects UTF-8.
    and case
      when current_setting('server_encoding') = 'SQL_ASCII' then set_config('client_encoding', 'SQL_ASCII', true) is not null
      else true
    end
  for key share;
  if not found then
    more := false;
    return next;
    return;
  end if;

  return next;
  return query
  with job as (
    update graphile_worker._private_jobs job
    set attempts = job.attempts + 1, locked_by = worker, locked_at = now()
    where job.id = any (plain_ids)
    returning job.id, job.task_id, job.job_queue_id, job.payload, job.priority, job.run_at, job.attempts, job.max_attempts,
      job.last_error, job.created_at, job.updated_at, job.key, job.revision, job.flags
  ),
  queue as (
    update graphile_worker._private_job_queues queue
    set locked_by = worker, locked_at = now()
    -- A trigger of the user's may have left the jobs out, and a queue without a job would be freed by nobody.
    where queue.id = any (array(select job.job_queue_id from job))
    returning queue.id, queue.queue_name
  ),
  row as (
    select null::bigint as id, task.id as task_id, null::integer as queue_id, task.identifier as text,
      null::smallint as priority, null::timestamptz as run_at, null::smallint as attempts, null::smallint as max_attempts,
      null::text as last_error, null::timestamptz as created_at, null::timestamptz as updated_at, null::text as key,
      null::integer as revision, null::text as flags
    from graphile_worker._private_tasks task
    -- Names without a job tell that all were left out.
    where task.id = any (case when few or not exists (select from job) then served else array(select job.task_id from job) end)
    union all
    select null, null, queue.id, queue.queue_name, null, null, null, null, null, null, null, null, null, null
    from queue
    union all
    select job.id, job.task_id, job.job_queue_id, job.payload::text, job.priority, job.run_at, job.attempts, job.max_attempts,
      job.last_error, job.created_at, job.updated_at, job.key, job.revision, job.flags::text
    from job
  )
  select row.*, null::timestamptz, null::boolean, null::boolean, null::smallint, null::timestamptz, null::interval,
    null::smallint, null::timestamptz, null::interval, null::integer[], null::smallint[]
  from row;
end;
$$;
