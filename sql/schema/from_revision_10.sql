-- Revision 10 to 11, first half: take the old tables out of the way.
--
-- The exclusive locks keep every enqueuer and worker out until we commit; they find the new tables then.
-- A job that is running right now cannot be carried over (its worker speaks the old functions), so the
-- caller counts fresh locks first and refuses. Views or functions of users that depend on the old tables
-- make the drops below fail, which rolls everything back: nothing is cascaded over.
lock table graphile_worker.jobs in access exclusive mode;
lock table graphile_worker.job_queues in access exclusive mode;

-- Constraint and sequence names are unique within a schema, hence the suffix on the new ones.
alter table graphile_worker.jobs rename to jobs_legacy;
alter table graphile_worker.job_queues rename to job_queues_legacy;
alter table graphile_worker.known_crontabs rename to known_crontabs_legacy;
alter index graphile_worker.known_crontabs_pkey rename to known_crontabs_legacy_pkey;
