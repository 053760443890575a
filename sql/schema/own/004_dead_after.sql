-- After how long without a heartbeat a worker may be declared dead, at the earliest. Null where the rescuer decides, as for workers of
-- older versions.
alter table graphile_worker.backfill_pools
  add column dead_after interval;
