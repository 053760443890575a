-- After how long a silence a pool wants to be declared dead, in microseconds; null where whoever looks decides.
alter table backfill_pools add column dead_after integer;
