-- Which tasks a worker runs, so that jobs can be told that nobody runs. (tasks has those that it takes without claiming.) Null
-- is a worker that does not tell, such as one of an earlier version.
alter table graphile_worker.backfill_pools add column if not exists serves text[];
