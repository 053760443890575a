-- Lines, leases, documents and events.

-- The order in which the jobs of each line are taken.
create index backfill_jobs_line on graphile_worker._private_jobs (task_id, priority, run_at, id)
  where is_available = true;
-- The same of each group of a line, and of those without a group.
create index backfill_jobs_group on graphile_worker._private_jobs (task_id, job_queue_id, priority, run_at, id)
  where is_available = true;
-- What is held of each line, and of each of its groups: few rows at any time.
create index backfill_jobs_held on graphile_worker._private_jobs (task_id, job_queue_id, priority, run_at, id)
  where locked_at is not null;

-- Names and keys are compared byte by byte, whatever the database's language.
create table graphile_worker.backfill_documents (
  kind text collate "C" not null,
  key text collate "C" not null,
  value json not null,
  version bigint not null,
  -- However a worker's row goes, its documents go with it.
  owner text constraint backfill_documents_owner_fkey references graphile_worker.backfill_pools (id) on delete cascade,
  until timestamptz,
  constraint backfill_documents_pkey primary key (kind, key)
);
create index backfill_documents_owner on graphile_worker.backfill_documents (owner) where owner is not null;
create index backfill_documents_until on graphile_worker.backfill_documents (until) where until is not null;
alter table graphile_worker.backfill_documents enable row level security;
-- Versions of documents: also one that was removed and stored anew gets a greater one.
create sequence graphile_worker.backfill_document_versions;

create table graphile_worker.backfill_events (
  -- Given under a lock that is held until the commit, so that no event appears below one that was read.
  position bigint generated always as identity (sequence name graphile_worker.backfill_event_positions)
    constraint backfill_events_pkey primary key,
  stream text collate "C" not null,
  at timestamptz not null default clock_timestamp(),
  payload json not null
);
create index backfill_events_stream on graphile_worker.backfill_events (stream, position);
alter table graphile_worker.backfill_events enable row level security;

-- When something of a group of a line was last taken.
create table graphile_worker.backfill_turns (
  task_id integer not null,
  job_queue_id integer not null
    constraint backfill_turns_queue_fkey references graphile_worker._private_job_queues (id) on delete cascade,
  taken_at timestamptz not null,
  constraint backfill_turns_pkey primary key (task_id, job_queue_id)
);
create index backfill_turns_queue on graphile_worker.backfill_turns (job_queue_id);
alter table graphile_worker.backfill_turns enable row level security;

-- Bodies of messages are compressed by lz4 where the server has it: a third of what pglz costs.
do $$
begin
  if current_setting('server_version_num')::integer >= 140000 then
    execute format(
      'alter table %s alter column payload set compression lz4', 'graphile_worker._private_jobs'::regclass
    );
  end if;
exception
  -- This server was built without it.
  when feature_not_supported then null;
end;
$$;
