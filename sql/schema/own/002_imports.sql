-- Jobs that came from another storage, as long as they are being moved: each comes once, however often the move is begun.
create table graphile_worker.backfill_imports (
  mover text not null,
  id bigint not null,
  constraint backfill_imports_pkey primary key (mover, id)
);
alter table graphile_worker.backfill_imports enable row level security;
