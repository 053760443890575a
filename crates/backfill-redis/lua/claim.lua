-- Takes ready jobs for a worker, in the order of priority, time and id over all its tasks.
-- ARGV: worker, limit, run length, most bytes, free slots, the moment by which jobs are ready or nothing; then three lists, each behind its length: tasks,
-- limits (task, number), forbidden flags.
local worker, limit, run_length, max_bytes, free_slots = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local nothing = { '0', '0', NONE, {} }
if limit == 0 or call('HEXISTS', WORKERS, worker) == 0 then return nothing end
local any_heads = call('EXISTS', HEADS) == 1
local any_flagged = call('EXISTS', FLAGGED) == 1
if not any_heads and not any_flagged and call('EXISTS', LINES) == 0 then return nothing end
local now = present()
local ready_by = ARGV[6] ~= '' and ARGV[6] or moment_bytes(now)
local at = 7
local tasks, serves, limits, forbidden = {}, {}, {}, {}
for _ = 1, tonumber(ARGV[at]) do
  at = at + 1
  if not serves[ARGV[at]] then
    tasks[#tasks + 1], serves[ARGV[at]] = ARGV[at], true
  end
end
at = at + 1
for _ = 1, tonumber(ARGV[at]) do
  limits[ARGV[at + 1]] = tonumber(ARGV[at + 2])
  at = at + 2
end
at = at + 1
local forbids = ARGV[at] ~= '0'
for _ = 1, tonumber(ARGV[at]) do
  at = at + 1
  forbidden[ARGV[at]] = true
end

local function is_forbidden(flags)
  if not forbids or flags == '' then return false end
  for _, flag in ipairs(cjson.decode(flags)) do
    if forbidden[flag] then return true end
  end
  return false
end

-- One cursor stands in each line that may have jobs, with the next of them before it. What is not ready ends a priority.
local most = #tasks <= 4 and math.min(limit + 1, 512) or math.min(limit + 1, 32)
local function advance(cursor)
  cursor.at = cursor.at + 1
  while true do
    local member = cursor.members[cursor.at]
    if member then
      local place = sub(member, cursor.begin, cursor.begin + 17)
      if not is_before(ready_by, sub(place, 3, 10)) then
        local priority, high, low, id_high, id_low = unpack_numbers('>I2I4I4I4I4', place)
        cursor.place, cursor.first, cursor.second, cursor.third = place, priority * WORD + high, low, id_high * WORD + id_low
        return true
      end
      local priority = unpack_numbers('>I2', place)
      if priority == 65535 then return false end
      cursor.from, cursor.ended = '[' .. sub(member, 1, cursor.begin - 1) .. pack('>I2', priority + 1), false
    elseif cursor.ended then
      return false
    end
    -- Of many lists of flags most have little.
    local chunk = cursor.key == FLAGLINES and math.min(most, 8) or most
    cursor.members = call('ZRANGEBYLEX', cursor.key, cursor.from, cursor.to, 'LIMIT', 0, chunk)
    local count = #cursor.members
    if count == 0 then return false end
    cursor.ended, cursor.from, cursor.at = count < chunk, '(' .. cursor.members[count], 1
    local ids = {}
    for i, found in ipairs(cursor.members) do ids[i] = sub(found, cursor.begin + 10, cursor.begin + 17) end
    cursor.jobs = call('HMGET', JOBS, unpack(ids))
  end
end

local function comes_before(a, b)
  if a.first ~= b.first then return a.first < b.first end
  if a.second ~= b.second then return a.second < b.second end
  return a.third < b.third
end

-- Sorted, so that the last one is next.
local cursors = {}
local function insert(cursor)
  local low, high = 1, #cursors + 1
  while low < high do
    local middle = math.floor((low + high) / 2)
    if comes_before(cursor, cursors[middle]) then low = middle + 1 else high = middle end
  end
  table.insert(cursors, low, cursor)
end
local function stand(key, task, line)
  local cursor = { key = key, task = task, at = 0, members = {}, begin = #line + 2, from = '[' .. line .. '\0', to = '(' .. line .. '\1' }
  if advance(cursor) then insert(cursor) end
end
for _, task in ipairs(tasks) do
  if limits[task] ~= 0 then
    stand(LINES, task, task)
    if any_flagged and not forbids then stand(FLAGGED, task, task) end
    if any_flagged and forbids then
      -- Jobs with flags have lines of their own, so that those that are forbidden are passed by at once, however many they are.
      local from, to = '[' .. task .. '\0', '(' .. task .. '\1'
      local first = call('ZRANGEBYLEX', FLAGLINES, from, to, 'LIMIT', 0, 1)[1]
      while first do
        local line = string.match(first, '^[^%z]*%z[^%z]*')
        if not is_forbidden(sub(line, #task + 2)) then stand(FLAGLINES, task, line) end
        first = call('ZRANGEBYLEX', FLAGLINES, '[' .. line .. '\1', to, 'LIMIT', 0, 1)[1]
      end
    end
    if any_heads then stand(HEADS, task, task) end
  end
end

local taken, queues, left = {}, {}, {}
local bytes, heavy, for_free_slots, side_by_side = 0, false, false, 0

-- Whether an earlier job of this queue is ready, of a task that is not served here or is full.
local function is_behind(queue, head)
  for _, other in ipairs(cmsgpack.unpack(call('HGET', QHEADS, queue))) do
    local place = sub(other, -18)
    if place ~= head and not is_before(ready_by, sub(place, 3, 10)) and place_is_before(place, head) then return true end
  end
  return false
end

-- Takes a job without a queue; answers whether the claim ends before it.
local function take_plain(place, meta, limited, key)
  local attempts, max = unpack_numbers('>I2I2', meta)
  bytes = bytes + unpack_numbers('>I4', meta, 11)
  for_free_slots = attempts + 1 >= max and side_by_side >= free_slots
  heavy = bytes > max_bytes and #taken > 0
  if for_free_slots or heavy then return true end
  if limited then limits[limited] = limits[limited] - 1 end
  side_by_side = side_by_side + 1
  taken[#taken + 1] = { place = place, meta = meta, job = key ~= LINES and read(meta) or nil }
  return false
end

-- The first job of a serial queue, and what is behind it as far as a run goes.
local function take_head(job, place, meta)
  local queue = job.queue
  if left[queue] then return false end
  local room = limits[job.task]
  if is_forbidden(job.flags) or is_behind(queue, place) then
    left[queue] = true
    return false
  end
  bytes = bytes + job.bytes
  for_free_slots = job.attempts + 1 >= job.max and side_by_side >= free_slots
  heavy = bytes > max_bytes and #taken > 0
  if for_free_slots or heavy then return true end
  if room then limits[job.task] = room - 1 end
  side_by_side = side_by_side + 1
  taken[#taken + 1] = { place = place, job = job, meta = meta }
  left[queue] = true
  queues[#queues + 1] = queue
  if run_length > 1 then
    -- What stands behind it in its queue comes in its turn.
    local prefix = queue .. '\0'
    local run = {
      key = QLINES, count = 1, at = 0, members = {}, begin = #prefix + 1, from = '(' .. prefix .. place .. '\255',
      to = '(' .. queue .. '\1',
    }
    if advance(run) then insert(run) end
  end
  return false
end

-- Takes the next job of a run, which the worker does after those before it; answers whether the claim ends before it, and whether the run does.
local function take_behind(run, job, place, meta)
  if run.count >= run_length or not serves[job.task] or limits[job.task] or job.attempts + 1 >= job.max or is_forbidden(job.flags) then
    return false, true
  end
  bytes = bytes + job.bytes
  heavy = bytes > max_bytes
  if heavy then return true, true end
  run.count = run.count + 1
  taken[#taken + 1] = { place = place, job = job, meta = meta }
  return false, false
end

local cursor = table.remove(cursors)
while cursor do
  local goes_on = false
  -- Beyond what can run side by side there may be more of the runs.
  if cursor.count or side_by_side < limit then
    local place, meta, ends, is_over = cursor.place, cursor.jobs[cursor.at], false, false
    if meta and cursor.count then
      ends, is_over = take_behind(cursor, read(meta), place, meta)
    elseif meta then
      -- Of a task that is full nothing more is looked at.
      if limits[cursor.task] == 0 then
        is_over = true
      elseif cursor.key == HEADS then
        ends = take_head(read(meta), place, meta)
      else
        ends = take_plain(place, meta, limits[cursor.task] and cursor.task, cursor.key)
      end
    end
    if ends then break end
    goes_on = not is_over and advance(cursor)
  end
  -- As long as its next one is next of all, no other cursor is looked at.
  local other = cursors[#cursors]
  if not goes_on then
    cursor = table.remove(cursors)
  elseif other and comes_before(other, cursor) then
    insert(cursor)
    cursor = table.remove(cursors)
  end
end
if #taken == 0 then return { for_free_slots and '1' or '0', for_free_slots and '1' or '0', NONE, {} } end

local moment, ids = claim_moment(now), {}
for _, queue in ipairs(queues) do lock_queue(queue, moment, worker) end
local jobs, lines, held, counts = {}, {}, {}, {}
for i, one in ipairs(taken) do
  local id = sub(one.place, -8)
  ids[i] = id
  if one.job then
    local job = read(one.meta)
    job.attempts, job.locked, job.holder = math.min(job.attempts + 1, 32767), moment, worker
    change(id, one.job, job)
  else
    local meta = one.meta
    local attempts = unpack_numbers('>I2', meta)
    local from = HOLDER + 1
    local task = sub(meta, from, string.find(meta, '\0', from, true))
    local n = #jobs
    jobs[n + 1], jobs[n + 2] = id, pack('>I2', math.min(attempts + 1, 32767)) .. sub(meta, 3, LOCKED - 1) .. moment .. worker .. sub(meta, HOLDER)
    lines[#lines + 1] = task .. one.place
    held[n + 1], held[n + 2] = 0, worker .. '\0' .. id
    counts[task] = (counts[task] or 0) + 1
  end
end
local payloads, answer = read_many(PAYLOADS, ids), {}
for i, id in ipairs(ids) do
  answer[3 * i - 2], answer[3 * i - 1], answer[3 * i] = id, taken[i].meta, payloads[i]
end
send_list('HSET', JOBS, jobs)
send_list('ZREM', LINES, lines)
send_list('ZADD', HELD, held)
for task, count in pairs(counts) do call('HINCRBY', HELDN, sub(task, 1, -2), count) end
flush()
local more = heavy or for_free_slots or side_by_side >= limit
return { more and '1' or '0', for_free_slots and '1' or '0', moment, answer }
