-- Deletes jobs that are done, whose claims still stand. ARGV: the worker; of each job its id, the claim's moment, and the serial queue that it frees or nothing.
-- Answers the ids of those that stood.
local worker, ids, done = ARGV[1], {}, {}
for at = 2, #ARGV, 3 do ids[#ids + 1] = ARGV[at] end
local metas, applied, freed_queues = read_many(JOBS, ids), {}, {}
local holder = worker .. '\0'
local after = HOLDER + #holder
local held, counts, plain = {}, {}, {}
for i, id in ipairs(ids) do
  local moment, queue, meta = ARGV[3 * i], ARGV[3 * i + 1], metas[i]
  if queue ~= '' and free_queue(queue, moment, worker) then freed_queues[#freed_queues + 1] = queue end
  if meta and not done[id] and sub(meta, LOCKED, LOCKED + 7) == moment and sub(meta, HOLDER, after - 1) == holder then
    -- One that comes twice is done once.
    done[id] = true
    applied[#applied + 1] = id
    if string.byte(meta, PARTS) % 4 == 0 then
      local task = sub(meta, after, string.find(meta, '\0', after, true) - 1)
      plain[#plain + 1] = id
      held[#held + 1] = holder .. id
      counts[task] = (counts[task] or 0) + 1
    else
      change(id, read(meta), nil)
    end
  end
end
send_list('HDEL', JOBS, plain)
send_list('HDEL', PAYLOADS, plain)
send_list('ZREM', IDS, plain)
send_list('ZREM', HELD, held)
for task, count in pairs(counts) do held_counts[task] = (held_counts[task] or 0) - count end
flush()
-- Whoever frees a queue looks for its next job itself; others have heard of nothing.
local serves = #freed_queues > 0 and call('HGET', SERVES, worker) or ''
local for_others, now = 0, #freed_queues > 0 and moment_bytes(present())
for _, queue in ipairs(freed_queues) do
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
