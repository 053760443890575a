-- Times are microseconds since 1970, UTC. Everything has the prefix backfill_, so that the tables can live in a file with
-- those of the program, and a job can be added in the transaction that it belongs to.

-- Which scripts this file has seen.
create table backfill_migrations (
  version integer primary key,
  applied_at integer not null
) strict;

create table backfill_jobs (
  -- autoincrement: numbers grow and are never given again, even when all jobs are gone. Its sequence is also the count of all
  -- jobs ever added, by which other processes notice new ones.
  id integer primary key autoincrement,
  task text not null,
  queue text,
  payload text not null,
  priority integer not null default 0,
  run_at integer not null,
  attempts integer not null default 0,
  max_attempts integer not null default 25,
  last_error text,
  created_at integer not null,
  updated_at integer not null,
  key text,
  revision integer not null default 0,
  -- A JSON array of names, sorted; null for none.
  flags text,
  locked_at integer,
  locked_by text
) strict;

-- The order in which jobs are claimed, of those that may be.
create index backfill_jobs_line on backfill_jobs (priority, run_at, id)
  where locked_at is null and attempts < max_attempts;
create unique index backfill_jobs_key on backfill_jobs (key) where key is not null;
-- Who holds what: few rows at any time.
create index backfill_jobs_held on backfill_jobs (locked_by) where locked_by is not null;

create table backfill_tasks (
  name text primary key
) strict, without rowid;

-- Serial queues, and the claim that holds each.
create table backfill_queues (
  name text primary key,
  locked_at integer,
  locked_by text
) strict, without rowid;

-- The workers that send heartbeats.
create table backfill_pools (
  id text primary key,
  started_at integer not null,
  seen_at integer not null
) strict, without rowid;

create table backfill_crontabs (
  identifier text primary key,
  known_since integer not null,
  last_execution integer
) strict, without rowid;

-- Jobs that came from another storage, as long as they are being moved: each comes once.
create table backfill_imports (
  mover text not null,
  id integer not null,
  primary key (mover, id)
) strict, without rowid;

-- How often waiting jobs were made ready by anything else than being added.
create table backfill_wakeups (
  one integer primary key check (one = 1),
  count integer not null
) strict;
insert into backfill_wakeups (one, count) values (1, 0);

-- The jobs and what each is doing at this moment, for people and for the administrative verbs. SQLite's clock is read in whole
-- milliseconds; one is added, so that what was just added is ready. (By the Julian day, so that older versions of sqlite3 than ours,
-- which have no other way to say fractions of a second, can look too.)
create view backfill_job_states as
select
  job.*,
  case
    when job.locked_at is not null then 'running'
    when job.attempts >= job.max_attempts then 'dead'
    when job.attempts > 0 and job.last_error is not null then 'failed'
    when job.run_at > cast(round((julianday('now') - 2440587.5) * 86400000) as integer) * 1000 + 1000 then 'scheduled'
    else 'ready'
  end as state
from backfill_jobs job;
