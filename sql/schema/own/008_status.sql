-- What a worker says of itself, as a JSON object in text: how many jobs it runs, its limits, and why it asks for none. Null is a worker that
-- does not tell, such as one of an earlier version.
alter table graphile_worker.backfill_pools add column if not exists status text;
