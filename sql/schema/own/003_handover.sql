-- Direct handoff: workers that would start a new job at once say so here: which tasks they run, and on which channel they hear of a job that
-- was stored for them. (Whether they would at this very moment is told by an advisory lock that belongs to the channel.)
alter table graphile_worker.backfill_pools
  add column tasks text[],
  add column handover text;
