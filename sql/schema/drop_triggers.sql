-- Revision 18 sends notifications from the functions; before that, triggers did. Only triggers whose function lives
-- in this schema are Graphile's; users' own are left alone. Nothing is cascaded.
do $$
declare
  stale record;
begin
  for stale in
    select tg.tgname as name, tg.tgrelid::regclass as target
    from pg_catalog.pg_trigger tg
    join pg_catalog.pg_class rel on rel.oid = tg.tgrelid
    join pg_catalog.pg_proc fn on fn.oid = tg.tgfoid
    where rel.relnamespace = 'graphile_worker'::regnamespace
      and fn.pronamespace = 'graphile_worker'::regnamespace
      and not tg.tgisinternal
  loop
    execute format('drop trigger %I on %s', stale.name, stale.target);
  end loop;

  for stale in
    select fn.oid::regprocedure as signature
    from pg_catalog.pg_proc fn
    where fn.pronamespace = 'graphile_worker'::regnamespace
      and fn.proname in (
        'jobs__decrease_job_queue_count', 'jobs__increase_job_queue_count',
        'tg__update_timestamp', 'tg_jobs__notify_new_jobs', 'tg_jobs__after_insert'
      )
  loop
    execute format('drop function %s', stale.signature);
  end loop;
end;
$$;
