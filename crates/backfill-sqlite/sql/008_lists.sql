-- Dead jobs, and those that wait for another attempt, by id: their lists and counts need not read all jobs. A job that succeeds at once is
-- in neither.
create index backfill_jobs_dead on backfill_jobs (id) where locked_at is null and attempts >= max_attempts;
create index backfill_jobs_retrying on backfill_jobs (id)
  where locked_at is null and attempts > 0 and attempts < max_attempts;
