-- The one relation that people and tools may rely on: it runs as its owner, so it shows rows to any role
-- that may select from it. Payloads are left out on purpose.
create or replace view graphile_worker.jobs as
select
  jobs.id,
  job_queues.queue_name,
  tasks.identifier as task_identifier,
  jobs.priority,
  jobs.run_at,
  jobs.attempts,
  jobs.max_attempts,
  jobs.last_error,
  jobs.created_at,
  jobs.updated_at,
  jobs.key,
  jobs.locked_at,
  jobs.locked_by,
  jobs.revision,
  jobs.flags
from graphile_worker._private_jobs jobs
join graphile_worker._private_tasks tasks on tasks.id = jobs.task_id
left join graphile_worker._private_job_queues job_queues on job_queues.id = jobs.job_queue_id;
