-- Worker pools that show a sign of life. One row per running pool, updated every few seconds; a pool that stops
-- takes its row away. Node's pools have none, which is how they are told apart from ours.
--
-- fillfactor leaves room on the page, so that the frequent update of seen_at stays a heap-only one.
create table graphile_worker.backfill_pools (
  id text not null constraint backfill_pools_pkey primary key,
  started_at timestamptz not null default now(),
  seen_at timestamptz not null default now()
) with (fillfactor = 50);
alter table graphile_worker.backfill_pools enable row level security;
