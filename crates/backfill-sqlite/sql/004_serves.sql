-- Which tasks a worker runs, as a JSON array, so that jobs can be told that nobody runs. Null is a worker that does not tell.
alter table backfill_pools add column serves text;
