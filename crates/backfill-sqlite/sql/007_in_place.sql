-- Whether what a worker holds keeps its place if the worker dies.
alter table backfill_pools add column in_place integer not null default 0;
