-- Which of our own objects a schema has. The shared `migrations` table is Node's: it never gets a number of ours.
create table if not exists graphile_worker.backfill_migrations (
  id integer constraint backfill_migrations_pkey primary key,
  name text not null,
  applied_at timestamptz not null default now()
);
alter table graphile_worker.backfill_migrations enable row level security;
