-- The four tables as every revision since 11 has had them.
--
-- No foreign keys: a job names its queue and task by id only, so that deleting a job never has to look
-- anywhere else. Row-level security is on without a policy: only the owner (and roles that bypass it)
-- reads or writes rows; everybody else goes through the view or a function the owner made for them.
--
-- Column order is part of the contract, because the functions return this row type. So are the names of constraints, which
-- from PostgreSQL 18 on include those of `not null`.

create table graphile_worker._private_known_crontabs (
  identifier text constraint known_crontabs_identifier_not_null not null constraint known_crontabs_pkey primary key,
  known_since timestamptz constraint known_crontabs_known_since_not_null not null,
  last_execution timestamptz
);
alter table graphile_worker._private_known_crontabs enable row level security;

create table graphile_worker._private_tasks (
  id integer generated always as identity (sequence name graphile_worker.tasks_id_seq) constraint tasks_id_not_null not null,
  identifier text constraint tasks_identifier_not_null not null,
  constraint tasks_pkey primary key (id),
  constraint tasks_identifier_key unique (identifier),
  constraint tasks_identifier_check check (length(identifier) <= 128)
);
alter table graphile_worker._private_tasks enable row level security;

create table graphile_worker._private_job_queues (
  id integer generated always as identity (sequence name graphile_worker.job_queues_id_seq) constraint job_queues_id_not_null not null,
  queue_name text constraint job_queues_queue_name_not_null1 not null,
  locked_at timestamptz,
  locked_by text,
  is_available boolean generated always as ((locked_at is null)) stored constraint job_queues_is_available_not_null not null,
  constraint job_queues_pkey1 primary key (id),
  constraint job_queues_queue_name_key unique (queue_name),
  constraint job_queues_queue_name_check check (length(queue_name) <= 128)
);
alter table graphile_worker._private_job_queues enable row level security;

create table graphile_worker._private_jobs (
  id bigint generated always as identity (sequence name graphile_worker.jobs_id_seq1) constraint jobs_id_not_null1 not null,
  job_queue_id integer,
  task_id integer constraint jobs_task_id_not_null not null,
  payload json default '{}'::json constraint jobs_payload_not_null1 not null,
  priority smallint default 0 constraint jobs_priority_not_null1 not null,
  run_at timestamptz default now() constraint jobs_run_at_not_null1 not null,
  attempts smallint default 0 constraint jobs_attempts_not_null1 not null,
  max_attempts smallint default 25 constraint jobs_max_attempts_not_null1 not null,
  last_error text,
  created_at timestamptz default now() constraint jobs_created_at_not_null1 not null,
  updated_at timestamptz default now() constraint jobs_updated_at_not_null1 not null,
  key text,
  locked_at timestamptz,
  locked_by text,
  revision integer default 0 constraint jobs_revision_not_null1 not null,
  flags jsonb,
  is_available boolean generated always as (((locked_at is null) and (attempts < max_attempts))) stored constraint jobs_is_available_not_null not null,
  constraint jobs_pkey1 primary key (id),
  constraint jobs_key_key1 unique (key),
  constraint jobs_max_attempts_check check (max_attempts >= 1),
  constraint jobs_key_check check (length(key) > 0 and length(key) <= 512)
);
alter table graphile_worker._private_jobs enable row level security;

create index jobs_main_index on graphile_worker._private_jobs
  using btree (priority, run_at) include (id, task_id, job_queue_id)
  where is_available = true;

create index jobs_no_queue_index on graphile_worker._private_jobs
  using btree (priority, run_at) include (id, task_id)
  where is_available = true and job_queue_id is null;
