-- Before revision 14 the functions had other signatures and row types, so they go before revision 20's come. Nothing
-- is cascaded: a user's own object that depends on one makes the migration fail with PostgreSQL's message.
do $$
declare
  stale record;
begin
  for stale in
    select fn.oid::regprocedure as signature
    from pg_catalog.pg_proc fn
    where fn.pronamespace = 'graphile_worker'::regnamespace
      and fn.proname in (
        'get_job', 'complete_job', 'fail_job',
        'add_job', 'add_jobs', 'complete_jobs', 'permanently_fail_jobs', 'reschedule_jobs', 'remove_job'
      )
  loop
    execute format('drop function %s', stale.signature);
  end loop;
end;
$$;
