-- Revision 10 to 11, second half: carry the data over.
--
-- Jobs get new ids in the order of the old ones; locks are not carried over (the caller saw that any that
-- remain are older than four hours, which is no lock). A number that does not fit a smallint fails with
-- 22003 and rolls everything back.
insert into graphile_worker._private_known_crontabs (identifier, known_since, last_execution)
select identifier, known_since, last_execution
from graphile_worker.known_crontabs_legacy;

insert into graphile_worker._private_tasks (identifier)
select task_identifier
from graphile_worker.jobs_legacy
group by task_identifier
order by min(id);

insert into graphile_worker._private_job_queues (queue_name)
select queue_name
from graphile_worker.jobs_legacy
where queue_name is not null
group by queue_name
order by min(id);

insert into graphile_worker._private_jobs (
  job_queue_id, task_id, payload, priority, run_at, attempts, max_attempts,
  last_error, created_at, updated_at, key, revision, flags
)
select
  queue.id, task.id, old.payload, old.priority::smallint, old.run_at, old.attempts::smallint,
  old.max_attempts::smallint, old.last_error, old.created_at, old.updated_at, old.key, old.revision, old.flags
from graphile_worker.jobs_legacy old
join graphile_worker._private_tasks task on task.identifier = old.task_identifier
left join graphile_worker._private_job_queues queue on queue.queue_name = old.queue_name
order by old.id;
