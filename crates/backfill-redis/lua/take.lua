-- Takes ready jobs by their lines. ARGV: the holder's name; 1 for a lease, 0 for a worker; for how many microseconds; most bytes; the moment by which jobs are
-- ready or nothing; 1 for in line; then two lists, each behind its length: documents because of which nothing is taken, and lines (name, most).
-- Answers the document that stopped it, or nothing; and of each job its id, what is kept of it, its payload.
local holder, is_lease, lasts, room = ARGV[1], ARGV[2] == '1', tonumber(ARGV[3]), tonumber(ARGV[4])
local now = present()
local now_bytes = moment_bytes(now)
local ready_by = ARGV[5] ~= '' and ARGV[5] or now_bytes
local wants_in_line = ARGV[6] == '1'
local at = 7
for _ = 1, tonumber(ARGV[at]) do
  at = at + 1
  local document = call('HGET', DOCS, ARGV[at])
  if document and is_there(document, now_bytes) then return { ARGV[at], {} } end
end
if not is_lease and call('HEXISTS', WORKERS, holder) == 0 then return { false, {} } end

if wants_in_line then
  -- The caller makes the index of groups first.
  if keeps_groups() ~= '1' then return 0 end
  -- What an ended lease holds stands before what is behind it.
  -- (Of very many some are left: what is behind them waits for the next take.)
  local lines = {}
  local given_back = #end_all_leases(now, 1000, lines)
  if given_back > 0 then tell(given_back, names(lines)) end
end

local moment = is_lease and moment_bytes(now + lasts) or claim_moment(now)
local taken, any, locked = {}, false, {}

local function has_room(job)
  if any and job.bytes > room then return false end
  any, room = true, math.max(room - job.bytes, 0)
  return true
end

local function hold(id, job, bytes)
  local new = read(bytes)
  new.attempts, new.locked, new.holder = math.min(new.attempts + 1, 32767), moment, holder
  change(id, job, new)
  taken[#taken + 1] = { id, written(new) }
end

-- A queue is taken from as by a claim: its first job, while nobody holds any of it.
local function is_first(job, place)
  if locked[job.queue] then return false end
  for _, other in ipairs(cmsgpack.unpack(call('HGET', QHEADS, job.queue))) do
    local others = sub(other, -18)
    if others ~= place and not is_before(ready_by, sub(others, 3, 10)) and place_is_before(others, place) then return false end
  end
  if not keeps_groups() then return true end
  local group = job.task .. '\0' .. job.queue
  return #call('ZRANGEBYLEX', GHELD, '[' .. group .. '\0', '(' .. group .. '\1', 'LIMIT', 0, 1) == 0
end

local function take_line(line, limit)
  local lines = lines_of(line)
  lines[#lines + 1] = { key = HEADS, name = line }
  local next_place, count = ready_of_all(lines, ready_by, math.min(limit + 1, 500)), 0
  while count < limit do
    local place = next_place()
    if not place then return end
    local id = sub(place, -8)
    local bytes = call('HGET', JOBS, id)
    local job = read(bytes)
    if job.queue == '' or is_first(job, place) then
      if not has_room(job) then return end
      if job.queue ~= '' then
        locked[job.queue] = true
        lock_queue(job.queue, moment, holder)
      end
      hold(id, job, bytes)
      count = count + 1
    end
  end
end

-- Groups come by the moment when one of their jobs was last taken, then by their first job. A job without a queue is a group by itself, never taken from.
local function take_in_line(line, limit)
  local count, done, begin = 0, {}, #line + 2
  local alone = ready_of_all(lines_of(line), ready_by, math.min(limit + 1, 500))
  local alone_place = alone()
  local due_by = moment_bytes(math.max(now, micros_of(ready_by)) + 1)
  -- Groups whose time has come stand with the others. (Of very many at once some come with the next take.)
  for _, member in ipairs(call('ZRANGEBYLEX', GDUE, '[' .. line .. '\0', '(' .. line .. '\0' .. due_by, 'LIMIT', 0, 1000)) do
    call('ZREM', GDUE, member)
    call('ZADD', GROUPS, 0, sub(member, 1, begin - 1) .. sub(member, begin + 8))
  end
  local from, groups, group_at = '[' .. line .. '\0', {}, 0
  local function next_group()
    while true do
      group_at = group_at + 1
      if not groups[group_at] then
        groups, group_at = call('ZRANGEBYLEX', GROUPS, from, '(' .. line .. '\1', 'LIMIT', 0, 200), 1
        if #groups == 0 then return nil end
        from = '(' .. groups[#groups]
      end
      local member = groups[group_at]
      local place = sub(member, begin + 8, begin + 25)
      if not is_before(ready_by, sub(place, 3, 10)) then
        return { turn = sub(member, begin, begin + 7), place = place, queue = sub(member, begin + 26) }
      end
    end
  end
  local group = next_group()
  while count < limit do
    if alone_place and (not group or group.turn ~= NONE or place_is_before(alone_place, group.place)) then
      local id = sub(alone_place, -8)
      local bytes = call('HGET', JOBS, id)
      local job = read(bytes)
      if not has_room(job) then return end
      hold(id, job, bytes)
      count = count + 1
      alone_place = alone()
    elseif group then
      if not done[group.queue] then
        done[group.queue] = true
        local name = line .. '\0' .. group.queue
        local held = call('ZRANGEBYLEX', GHELD, '[' .. name .. '\0', '(' .. name .. '\1', 'LIMIT', 0, 1)[1]
        held = held and sub(held, -18)
        local next_member = ready_members(GLINES, name, ready_by, math.min(limit - count + 1, 500))
        while count < limit do
          local _, place = next_member()
          if not place or (held and not place_is_before(place, held)) then break end
          local id = sub(place, -8)
          local bytes = call('HGET', JOBS, id)
          local job = read(bytes)
          if not has_room(job) then return end
          hold(id, job, bytes)
          call('HSET', TURNS, name, now_bytes)
          count = count + 1
        end
      end
      group = next_group()
    else
      return
    end
  end
end

at = at + 1
for _ = 1, tonumber(ARGV[at]) do
  local line, limit = ARGV[at + 1], tonumber(ARGV[at + 2])
  at = at + 2
  if wants_in_line then take_in_line(line, limit) else take_line(line, limit) end
end
local ids, answer = {}, {}
for i, one in ipairs(taken) do ids[i] = one[1] end
local payloads = read_many(PAYLOADS, ids)
for i, one in ipairs(taken) do
  answer[3 * i - 2], answer[3 * i - 1], answer[3 * i] = one[1], one[2], payloads[i]
end
flush()
return { false, answer }
