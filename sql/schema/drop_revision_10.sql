-- The old functions return the old row type, so they go before the tables.
drop table graphile_worker.jobs_legacy;
drop table graphile_worker.job_queues_legacy;
drop table graphile_worker.known_crontabs_legacy;
