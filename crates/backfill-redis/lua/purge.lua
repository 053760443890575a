-- Deletes a part of a line. ARGV: from where (lines, flagged, queued, dead, held), the line, how far it has come or nothing, how many to look at; then 'ready' and the moment by
-- which they were, or 'all' and the moment before which they were made. Answers how many are gone, and how far it has come; nothing once all was looked at.
local place_kind, line, from, limit, what, moment = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5], ARGV[6]
local key = ({ lines = LINES, flagged = FLAGGED, queued = QUEUED, dead = DEAD, held = HELD })[place_kind]
local is_held = place_kind == 'held'
local first, last = is_held and '-' or '[' .. line .. '\0', is_held and '+' or '(' .. line .. '\1'
local members = call('ZRANGEBYLEX', key, from ~= '' and from or first, last, 'LIMIT', 0, limit)
local gone, come = 0, #members == limit and '(' .. members[limit] or false
for _, member in ipairs(members) do
  local id = sub(member, -8)
  local job = read(call('HGET', JOBS, id))
  local priority = job.priority
  local is_due = what == 'all' or not is_before(moment, job.run_at)
  if what == 'ready' and not is_due then
    -- Nothing of this priority is behind it.
    local prefix = sub(member, 1, -19)
    if priority < 65535 then
      come = '[' .. prefix .. pack('>I2', priority + 1)
    else
      come = place_kind == 'flagged' and '[' .. sub(prefix, 1, -2) .. '\1' or false
    end
    break
  end
  if job.task == line and (what == 'ready' or not is_before(moment, job.created)) then
    if job.locked ~= NONE and job.queue ~= '' then free_queue(job.queue, job.locked, job.holder) end
    change(id, job, nil)
    gone = gone + 1
  end
end
flush()
if gone > 0 then tell(1, line .. '\0') end
return { gone, come }
