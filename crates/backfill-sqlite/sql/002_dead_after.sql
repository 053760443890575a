-- After how long without a heartbeat a worker may be declared dead, in microseconds; null where the rescuer decides.
alter table backfill_pools add column dead_after integer;
