-- Which of the scripts of messages this schema has seen. They are in schemas that want them.
create table if not exists graphile_worker.backfill_message_migrations (
  id integer constraint backfill_message_migrations_pkey primary key,
  name text not null,
  ts timestamptz not null default now()
);
alter table graphile_worker.backfill_message_migrations enable row level security;
