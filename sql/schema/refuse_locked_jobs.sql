-- Revision 11 cannot carry a running job over: its worker speaks functions that will be gone. A lock of four hours
-- is no lock. The caller reads the number from the message.
do $$
declare
  locked bigint;
begin
  select
    (select count(*) from graphile_worker.jobs where locked_at > now() - interval '4 hours')
    + (select count(*) from graphile_worker.job_queues where locked_at > now() - interval '4 hours')
  into locked;
  if locked > 0 then
    raise exception using errcode = 'BFLCK', message = locked::text;
  end if;
end;
$$;
