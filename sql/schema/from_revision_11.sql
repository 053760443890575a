-- Revisions 11 to 15 kept the tables under public-looking names; 16 renamed them. Constraints, indexes and
-- sequences keep their names through a rename, which is how they came by them.
alter table graphile_worker.jobs rename to _private_jobs;
alter table graphile_worker.job_queues rename to _private_job_queues;
alter table graphile_worker.tasks rename to _private_tasks;
alter table graphile_worker.known_crontabs rename to _private_known_crontabs;
