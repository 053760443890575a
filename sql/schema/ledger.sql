-- The shared ledger of revisions. Revisions 1 to 10 had no `breaking` column.
create table if not exists graphile_worker.migrations (
  id integer constraint migrations_pkey primary key,
  ts timestamptz not null default now()
);
alter table graphile_worker.migrations
  add column if not exists breaking boolean not null default false;
