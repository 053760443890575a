-- Which of our own objects a schema has. The shared `migrations` table is Node's: it never gets a number of ours.
--
-- Row-level security is on as everywhere, but whoever may select from the ledger sees it: a role that only adds jobs has
-- to find out whether the schema is up to date.
create table if not exists graphile_worker.backfill_migrations (
  id integer constraint backfill_migrations_pkey primary key,
  name text not null,
  applied_at timestamptz not null default now()
);
alter table graphile_worker.backfill_migrations enable row level security;
create policy backfill_migrations_read on graphile_worker.backfill_migrations for select using (true);
