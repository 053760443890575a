-- What a worker says of itself, as a JSON object: how many jobs it runs, its limits, and why it asks for none. Null is a worker that does
-- not tell.
alter table backfill_pools add column status text;
