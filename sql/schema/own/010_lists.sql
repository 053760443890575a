-- Dead jobs, and those that wait for another attempt, by id: their lists and counts need not read all jobs. A job that succeeds at once is
-- in neither, so adding, claiming and completing write nothing more.
--
-- Locking: building an index keeps all writers waiting. So it is done here only where that takes a moment; in a larger table
-- `backfill migrate --indexes` builds them while others write. Where the table is another role's, it is left alone.
do $$
begin
  if exists (
    select from pg_catalog.pg_class rel
    where rel.relnamespace = 'graphile_worker'::regnamespace and rel.relname = '_private_jobs'
      and pg_catalog.pg_relation_size(rel.oid) < 64 * 1024 * 1024
      and pg_catalog.pg_has_role(rel.relowner, 'usage')
  ) then
    create index if not exists backfill_jobs_dead on graphile_worker._private_jobs (id)
      where locked_at is null and attempts >= max_attempts;
    create index if not exists backfill_jobs_retrying on graphile_worker._private_jobs (id)
      where locked_at is null and attempts > 0 and attempts < max_attempts;
  end if;
end
$$;
