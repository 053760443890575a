-- Its numbers were integers until revision 13.
drop type graphile_worker.job_spec;
