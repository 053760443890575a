-- Whether what a worker holds, if it dies, is ready again where it stood, without being spread in time.
alter table graphile_worker.backfill_pools add column if not exists in_place boolean not null default false;
