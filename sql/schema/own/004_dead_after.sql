-- After how long a silence a pool wants to be taken for dead, at the earliest. Null where whoever looks decides, as for pools of older
-- versions.
alter table graphile_worker.backfill_pools
  add column dead_after interval;
