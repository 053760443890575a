-- The workers that send heartbeats. One row per running worker, updated every few seconds; a worker that stops
-- deletes its row. Node's workers have none, which is how they are told apart from ours.
--
-- fillfactor leaves room on the page, so that the frequent update of seen_at stays a heap-only one.
create table graphile_worker.backfill_pools (
  id text not null constraint backfill_pools_pkey primary key,
  started_at timestamptz not null default now(),
  seen_at timestamptz not null default now()
) with (fillfactor = 50);
alter table graphile_worker.backfill_pools enable row level security;
