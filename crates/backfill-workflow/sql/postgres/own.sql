-- What is this library's own, and no other's: in a schema of its own, for all schemas of workflows in the database.
create schema if not exists backfill_workflow;

-- The processes that run workflows, and until when each is taken to live.
create table if not exists backfill_workflow.executors (
    schema_name text not null,
    executor_id text not null,
    lives_until timestamptz not null,
    primary key (schema_name, executor_id)
);
