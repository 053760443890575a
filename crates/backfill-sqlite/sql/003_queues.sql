-- The order in which the jobs of each serial queue are claimed, of those that may be.
create index backfill_jobs_queue on backfill_jobs (queue, priority, run_at, id)
  where locked_at is null and attempts < max_attempts and queue is not null;
