-- Lines, leases, documents and events, for files that want them. Times are microseconds since 1970, UTC.

-- Which of these scripts this file has seen.
create table backfill_message_migrations (
  version integer primary key,
  applied_at integer not null
) strict;

-- The order in which the jobs of each line are taken, of those that may be.
create index backfill_jobs_task_line on backfill_jobs (task, priority, run_at, id)
  where locked_at is null and attempts < max_attempts;
-- The same of each group of a line, and of those without a group.
create index backfill_jobs_group on backfill_jobs (task, queue, priority, run_at, id)
  where locked_at is null and attempts < max_attempts;
-- What is held of each line, and which leases end first: few rows at any time.
create index backfill_jobs_held_line on backfill_jobs (task, queue, priority, run_at, id) where locked_at is not null;
create index backfill_jobs_lease on backfill_jobs (locked_at) where substr(locked_by, 1, 6) = 'lease:';

create table backfill_documents (
  kind text not null,
  key text not null,
  value text not null,
  version integer not null,
  -- It goes when this worker does.
  owner text,
  -- It goes at this time.
  until integer,
  primary key (kind, key)
) strict, without rowid;
create index backfill_documents_owner on backfill_documents (owner) where owner is not null;
create index backfill_documents_until on backfill_documents (until) where until is not null;
-- The highest version that a document ever had.
create table backfill_document_versions (
  one integer primary key check (one = 1),
  last integer not null
) strict;
insert into backfill_document_versions (one, last) values (1, 0);

-- However a worker's row goes, its documents go with it.
create trigger backfill_documents_go after delete on backfill_pools
begin
  delete from backfill_documents where owner = old.id;
  update backfill_document_versions set last = last + 1;
end;

create table backfill_events (
  -- autoincrement: positions grow and are never given again, even when all events are gone.
  position integer primary key autoincrement,
  stream text not null,
  at integer not null,
  payload text not null
) strict;
create index backfill_events_stream on backfill_events (stream, position);

-- When something of a group of a line was last taken.
create table backfill_turns (
  task text not null,
  queue text not null,
  taken_at integer not null,
  primary key (task, queue)
) strict, without rowid;
