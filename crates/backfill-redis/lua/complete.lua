-- Deletes jobs that are done, whose claims still stand. ARGV: the worker; of each job its id, the claim's moment, and the serial queue that it frees or nothing.
-- Answers the ids of those that stood.
local worker, ids = ARGV[1], {}
for at = 2, #ARGV, 3 do ids[#ids + 1] = ARGV[at] end
local metas, applied, freed = read_many(JOBS, ids), {}, {}
for i, id in ipairs(ids) do
  local moment, queue = ARGV[3 * i], ARGV[3 * i + 1]
  if queue ~= '' and free_queue(queue, moment, worker) then freed[#freed + 1] = queue end
  local job = metas[i] and read(metas[i])
  if job and job.locked == moment and job.holder == worker then
    change(id, job, nil)
    applied[#applied + 1] = id
    -- One that comes twice is done once.
    for again = i + 1, #ids do
      if ids[again] == id then metas[again] = false end
    end
  end
end
flush()
-- Whoever frees a queue looks for its next job itself; others have heard of nothing.
local serves = #freed > 0 and call('HGET', SERVES, worker) or ''
local for_others, now = 0, moment_bytes(present())
for _, queue in ipairs(freed) do
  local heads = call('HGET', QHEADS, queue)
  local first
  for _, head in ipairs(heads and cmsgpack.unpack(heads) or {}) do
    local place = sub(head, -18)
    if not is_before(now, sub(place, 3, 10)) and (not first or place_is_before(place, sub(first, -18))) then first = head end
  end
  if first and not string.find(serves or '', '\0' .. sub(first, 1, -20) .. '\0', 1, true) then for_others = for_others + 1 end
end
if for_others > 0 then tell(for_others) end
return applied
