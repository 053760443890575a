-- How often a serial queue was freed whose next job was ready. Workers that have passed by jobs of held queues look again then; the others
-- need no wakeup, since whoever frees a queue looks for its next job itself.
alter table backfill_wakeups add column freed integer not null default 0;
