-- What every script begins with: the keys, how a job is kept, and the indexes over jobs.
--
-- All keys of a namespace are named here, are passed by the caller in this order, and have the same hash tag, so a namespace is in one slot of a
-- cluster and a script is atomic. Scripts check first and write last: a script that fails after its first write is not rolled back.
local JOBS, PAYLOADS, IDS, KEYED, LINES, QUEUED, HEADS, QLINES, QHEADS, QUEUES, QHELD, HELD, HELDN, DEAD, LEASES, WORKERS,
  SEEN, SERVES, STATUS, TASKS, CRONTABS, IMPORTS, COUNTERS, WAKE, GLINES, GHELD, GHEADS, GROUPS, TURNS, DOCS, DOCKEYS,
  DOCENDS, DOCOWNERS, STREAMS, OFFERS, FLAGGED, FLAGLINES, GDUE = unpack(KEYS)
local call, sub = redis.call, string.sub
local pack, unpack_numbers = struct.pack, struct.unpack

-- Numbers are doubles here, which hold integers up to 2^53. A moment is 8 bytes, in microseconds and counted from -2^63, so that bytes sort as moments
-- do; ids are 8 bytes, too. (Strings are not compared by Lua's `<`, which goes by the server's locale.)
local WORD, HALF = 4294967296, 2147483648
local NONE = '\0\0\0\0\0\0\0\0'

local function moment_bytes(micros)
  local high = math.floor(micros / WORD)
  return pack('>I4I4', high + HALF, micros - high * WORD)
end

local function micros_of(bytes)
  local high, low = unpack_numbers('>I4I4', bytes)
  return (high - HALF) * WORD + low
end

local function id_bytes(number)
  local high = math.floor(number / WORD)
  return pack('>I4I4', high, number - high * WORD)
end

local function id_number(bytes)
  local high, low = unpack_numbers('>I4I4', bytes)
  return high * WORD + low
end

local function present()
  local time = call('TIME')
  return time[1] * 1000000 + time[2]
end

-- A moment that no claim had before: it names the claim.
local function claim_moment(now)
  local last = tonumber(call('HGET', COUNTERS, 'moment')) or 0
  local moment = math.max(now, last + 1)
  call('HSET', COUNTERS, 'moment', string.format('%.0f', moment))
  return moment_bytes(moment)
end

-- Whether the first of two byte strings of 8 sorts before the second.
local function is_before(a, b)
  local a1, a2 = unpack_numbers('>I4I4', a)
  local b1, b2 = unpack_numbers('>I4I4', b)
  if a1 ~= b1 then return a1 < b1 end
  return a2 < b2
end

-- The same of two places: 2 bytes of priority, 8 of the moment, 8 of the id.
local function place_is_before(a, b)
  local a0, a1, a2, a3, a4 = unpack_numbers('>I2I4I4I4I4', a)
  local b0, b1, b2, b3, b4 = unpack_numbers('>I2I4I4I4I4', b)
  if a0 ~= b0 then return a0 < b0 end
  if a1 ~= b1 then return a1 < b1 end
  if a2 ~= b2 then return a2 < b2 end
  if a3 ~= b3 then return a3 < b3 end
  return a4 < b4
end

-- A job without its payload: 47 bytes of numbers, then six texts. `codec.rs` reads and writes the same. Of its parts (queue 1, key 2, flags 4) the byte
-- PARTS says which it has, so that the many jobs without any need not be taken apart.
local PARTS, RUN_AT, CREATED, UPDATED, LOCKED, HOLDER = 15, 16, 24, 32, 40, 48

local function read(bytes)
  local job = {}
  job.attempts, job.max, job.priority, job.revision, job.bytes = unpack_numbers('>I2I2I2I4I4', bytes)
  job.run_at, job.created = sub(bytes, RUN_AT, RUN_AT + 7), sub(bytes, CREATED, CREATED + 7)
  job.updated, job.locked = sub(bytes, UPDATED, UPDATED + 7), sub(bytes, LOCKED, LOCKED + 7)
  job.holder, job.task, job.queue, job.key, job.flags, job.error =
    string.match(bytes, '^([^%z]*)%z([^%z]*)%z([^%z]*)%z([^%z]*)%z([^%z]*)%z(.*)$', HOLDER)
  return job
end

local function parts_of(queue, key, flags)
  return string.char((queue ~= '' and 1 or 0) + (key ~= '' and 2 or 0) + (flags ~= '' and 4 or 0))
end

local function written(job)
  return pack('>I2I2I2I4I4', job.attempts, job.max, job.priority, job.revision, job.bytes)
    .. parts_of(job.queue, job.key, job.flags) .. job.run_at .. job.created .. job.updated .. job.locked
    .. job.holder .. '\0' .. job.task .. '\0' .. job.queue .. '\0' .. job.key .. '\0' .. job.flags .. '\0' .. job.error
end

-- Writes gather, and go out many members at a time: each call from Lua costs as much as several members.
local removed, inserted, deleted, set = {}, {}, {}, {}
local touched_queues, touched_groups, held_counts = {}, {}, {}

local function gather(writes, key, first, second)
  local list = writes[key]
  if not list then
    list = {}
    writes[key] = list
  end
  list[#list + 1] = first
  if second then list[#list + 1] = second end
end

local function send_list(command, key, list)
  for from = 1, #list, 4000 do
    call(command, key, unpack(list, from, math.min(from + 3999, #list)))
  end
end

local function send(command, writes)
  for key, list in pairs(writes) do
    send_list(command, key, list)
    writes[key] = nil
  end
end

-- Whether groups are taken in line here: their index is kept from the first such take on. While it is being made, it says how far that has come.
local in_line_known, in_line
local function keeps_groups()
  if not in_line_known then
    in_line, in_line_known = call('HGET', COUNTERS, 'in_line'), true
  end
  return in_line
end

-- The same job, held by nobody.
local function freed(job)
  local copy = {}
  for name, value in pairs(job) do copy[name] = value end
  copy.locked, copy.holder = NONE, ''
  return copy
end

local function is_available(job)
  return job.locked == NONE and job.attempts < job.max
end

local function place_of(id, job)
  return pack('>I2', job.priority) .. job.run_at .. id
end

local function touch_group(job)
  touched_groups[job.task .. '\0' .. job.queue] = true
end

local function index(id, job, writes, count)
  local is_queued = job.queue ~= ''
  if is_available(job) then
    local place = place_of(id, job)
    if is_queued then
      gather(writes, QUEUED, job.task .. '\0' .. place)
      gather(writes, QLINES, job.queue .. '\0' .. place .. job.task)
      touched_queues[job.queue] = true
      if keeps_groups() then
        gather(writes, GLINES, job.task .. '\0' .. job.queue .. '\0' .. place)
        touch_group(job)
      end
    elseif job.flags ~= '' then
      gather(writes, FLAGGED, job.task .. '\0' .. place)
      gather(writes, FLAGLINES, job.task .. '\0' .. job.flags .. '\0' .. place)
    else
      gather(writes, LINES, job.task .. '\0' .. place)
    end
  elseif job.locked ~= NONE then
    gather(writes, HELD, job.holder .. '\0' .. id)
    held_counts[job.task] = (held_counts[job.task] or 0) + count
    if sub(job.holder, 1, 6) == 'lease:' then gather(writes, LEASES, job.locked .. id) end
    if is_queued and keeps_groups() then
      gather(writes, GHELD, job.task .. '\0' .. job.queue .. '\0' .. place_of(id, job))
      touch_group(job)
    end
  else
    gather(writes, DEAD, job.task .. '\0' .. id)
  end
end

-- Changes a job and the indexes. Without an old one it is new; without a new one it is deleted.
local function change(id, old, new, payload)
  if old then index(id, old, removed, -1) end
  if new then
    gather(set, JOBS, id, written(new))
    if payload then gather(set, PAYLOADS, id, payload) end
    index(id, new, inserted, 1)
    if not old then gather(inserted, IDS, id) end
  else
    gather(deleted, JOBS, id)
    gather(deleted, PAYLOADS, id)
    gather(removed, IDS, id)
  end
  local old_key, new_key = old and old.key or '', new and new.key or ''
  if old_key ~= new_key then
    if old_key ~= '' then gather(deleted, KEYED, old_key) end
    if new_key ~= '' then gather(set, KEYED, new_key, id) end
  end
end

-- Where the jobs of a task without a queue are: those without flags, and those with.
local function lines_of(task)
  return { { key = LINES, name = task }, { key = FLAGGED, name = task } }
end

-- The first job of each priority in a sorted list of places behind a prefix.
local function first_of_each(key, prefix)
  local found, last = {}, '(' .. sub(prefix, 1, -2) .. '\1'
  local first = call('ZRANGEBYLEX', key, '[' .. prefix, last, 'LIMIT', 0, 1)[1]
  while first do
    found[#found + 1] = first
    local priority = unpack_numbers('>I2', sub(first, #prefix + 1, #prefix + 2))
    if priority == 65535 then break end
    first = call('ZRANGEBYLEX', key, '[' .. prefix .. pack('>I2', priority + 1), last, 'LIMIT', 0, 1)[1]
  end
  return found
end

-- What is first of a field's is another list now: what goes and what comes is told to two functions.
local function replace_heads(index_key, field, new, remove, insert)
  local old = call('HGET', index_key, field)
  local old_list = old and cmsgpack.unpack(old) or {}
  local is_new = {}
  for _, member in ipairs(new) do is_new[member] = true end
  local is_same = #old_list == #new
  for _, member in ipairs(old_list) do
    if is_new[member] then
      is_new[member] = nil
    else
      is_same = false
      remove(member)
    end
  end
  if is_same then return end
  for member in pairs(is_new) do insert(member) end
  if #new == 0 then
    call('HDEL', index_key, field)
  else
    call('HSET', index_key, field, cmsgpack.pack(new))
  end
end

-- While a serial queue is free, its first job of each priority is among the heads, by its task. While it is held, none is.
local function refresh_queue(queue)
  local new = {}
  local lock = call('HGET', QUEUES, queue)
  if not lock then call('HSET', QUEUES, queue, '') end
  if not lock or lock == '' then
    local prefix = queue .. '\0'
    for _, member in ipairs(first_of_each(QLINES, prefix)) do
      local place = sub(member, #prefix + 1, #prefix + 18)
      new[#new + 1] = sub(member, #prefix + 19) .. '\0' .. place
    end
  end
  replace_heads(QHEADS, queue, new, function(member) call('ZREM', HEADS, member) end, function(member)
    call('ZADD', HEADS, 0, member)
  end)
end

-- A member of the groups whose time has not come is among those that are due later, with its time before the rest.
local function due_later(member, task_length)
  local begin = task_length + 2
  return sub(member, 1, begin - 1) .. sub(member, begin + 10, begin + 17) .. sub(member, begin)
end

-- The first job of each priority of a group, unless a held one stands before it; by the moment when one of the group was last taken.
local function refresh_group(group)
  local prefix, new = group .. '\0', {}
  local held = call('ZRANGEBYLEX', GHELD, '[' .. prefix, '(' .. group .. '\1', 'LIMIT', 0, 1)[1]
  held = held and sub(held, #prefix + 1)
  local task, queue = string.match(group, '^([^%z]*)%z(.*)$')
  local turn = call('HGET', TURNS, group) or NONE
  for _, member in ipairs(first_of_each(GLINES, prefix)) do
    local place = sub(member, #prefix + 1)
    if not held or place_is_before(place, held) then
      new[#new + 1] = task .. '\0' .. turn .. place .. queue
    end
  end
  local now = moment_bytes(present())
  replace_heads(GHEADS, group, new, function(member)
    call('ZREM', GROUPS, member)
    call('ZREM', GDUE, due_later(member, #task))
  end, function(member)
    local begin = #task + 2
    if is_before(now, sub(member, begin + 10, begin + 17)) then
      call('ZADD', GDUE, 0, due_later(member, #task))
    else
      call('ZADD', GROUPS, 0, member)
    end
  end)
end

local function flush()
  send('ZREM', removed)
  for key, list in pairs(inserted) do
    local scored = {}
    for at, member in ipairs(list) do
      scored[2 * at - 1], scored[2 * at] = 0, member
    end
    send_list('ZADD', key, scored)
    inserted[key] = nil
  end
  send('HDEL', deleted)
  send('HSET', set)
  for task, count in pairs(held_counts) do
    if count ~= 0 and call('HINCRBY', HELDN, task, count) == 0 then call('HDEL', HELDN, task) end
    held_counts[task] = nil
  end
  local queues, groups = touched_queues, touched_groups
  touched_queues, touched_groups = {}, {}
  for queue in pairs(queues) do refresh_queue(queue) end
  for group in pairs(groups) do refresh_group(group) end
end

local function lock_queue(queue, moment, holder)
  call('HSET', QUEUES, queue, moment .. holder)
  call('ZADD', QHELD, 0, holder .. '\0' .. queue)
  touched_queues[queue] = true
end

-- Frees a serial queue, if it is held so.
local function free_queue(queue, moment, holder)
  if call('HGET', QUEUES, queue) ~= moment .. holder then return false end
  call('HSET', QUEUES, queue, '')
  call('ZREM', QHELD, holder .. '\0' .. queue)
  touched_queues[queue] = true
  return true
end

-- Reads many fields of a hash.
local function read_many(key, fields)
  local values = {}
  for from = 1, #fields, 4000 do
    for _, value in ipairs(call('HMGET', key, unpack(fields, from, math.min(from + 3999, #fields)))) do
      values[#values + 1] = value
    end
  end
  return values
end

-- Tells whoever listens: how many jobs were made ready, and the names of lines, kinds and streams where something has changed, each before a NUL.
-- Entries are counted: old ones are forgotten, and a listener that was slow has to know that it missed some.
local function tell(count, lines, kinds, streams)
  local number = call('HINCRBY', COUNTERS, 'wake', 1)
  call('XADD', WAKE, 'MAXLEN', '~', 1000, '*', 'i', number, 'n', count, 'l', lines or '', 'd', kinds or '', 's', streams or '')
end

local function names(list)
  local text = ''
  for name in pairs(list) do text = text .. name .. '\0' end
  return text
end

-- Two arrays become one; nil if either is something else. Both are known to be JSON.
local function joined(old, new)
  local first, second = string.match(old, '^%s*%[(.*)%]%s*$'), string.match(new, '^%s*%[(.*)%]%s*$')
  if not first or not second then return nil end
  if not string.find(first, '%S') then return '[' .. second .. ']' end
  if not string.find(second, '%S') then return '[' .. first .. ']' end
  return '[' .. first .. ',' .. second .. ']'
end

-- A new job, if another has its key. Answers the other one, changed, if that is the answer; otherwise it has lost its key.
local function meet(other_id, new, mode, payload, now_bytes)
  local bytes = call('HGET', JOBS, other_id)
  local other, changed = read(bytes), read(bytes)
  changed.updated = now_bytes
  if mode == 2 then
    changed.revision = changed.revision + 1
    change(other_id, other, changed)
    return { other_id, written(changed), call('HGET', PAYLOADS, other_id) }
  elseif is_available(other) then
    if mode ~= 1 or changed.attempts > 0 then changed.run_at = new.run_at end
    local new_payload = joined(call('HGET', PAYLOADS, other_id), payload) or payload
    changed.task, changed.queue, changed.flags, changed.priority, changed.max =
      new.task, new.queue, new.flags, new.priority, new.max
    changed.bytes = #new_payload
    changed.revision, changed.attempts, changed.error = changed.revision + 1, 0, ''
    change(other_id, other, changed, new_payload)
    return { other_id, written(changed), new_payload }
  end
  changed.key, changed.attempts = '', changed.max
  -- By that it is known that its key was taken after it was claimed, also when the clock was set back meanwhile.
  if not is_before(other.locked, changed.updated) then changed.updated = moment_bytes(micros_of(other.locked) + 1) end
  change(other_id, other, changed)
end

-- Stores jobs, of which no two have the same key. `list` has from `at` on so many runs of jobs that differ in their payloads only: a head, how many, and
-- the payloads. Answers of each run its first id (the others follow it), or, where a job with its key was changed instead, that one; also
-- how many may be ready, their lines, and where the list goes on.
local function add_runs(list, at, runs, now)
  local answers, ready, tasks, lines = {}, 0, {}, {}
  local now_bytes = moment_bytes(now)
  local jobs, payloads, members, ids = {}, {}, {}, {}
  for run = 1, runs do
    local head, count = list[at], tonumber(list[at + 1])
    local mode, kind, when, max, priority = unpack_numbers('>BBc8I2I2', head)
    local task, queue, key, flags = string.match(head, '^([^%z]*)%z([^%z]*)%z([^%z]*)%z(.*)$', 15)
    local run_at = now_bytes
    if kind == 1 then
      run_at = when
    elseif kind == 2 then
      run_at = moment_bytes(now + id_number(when))
    end
    if kind == 0 or not is_before(now_bytes, run_at) then
      ready = ready + count
      lines[task] = true
    end
    if not tasks[task] then
      tasks[task] = true
      call('SADD', TASKS, task)
    end
    if queue ~= '' then call('HSETNX', QUEUES, queue, '') end
    local other_id = key ~= '' and call('HGET', KEYED, key)
    local new = { task = task, queue = queue, flags = flags, priority = priority, max = max, run_at = run_at }
    local answer = other_id and meet(other_id, new, mode, list[at + 2], now_bytes)
    if not answer then
      local last = call('HINCRBY', COUNTERS, 'id', count) - count
      local begins = pack('>I2I2I2I4', 0, max, priority, 0)
      local ends = parts_of(queue, key, flags) .. run_at .. now_bytes .. now_bytes .. NONE
        .. '\0' .. task .. '\0' .. queue .. '\0' .. key .. '\0' .. flags .. '\0'
      local line, place = task .. '\0' .. pack('>I2', priority) .. run_at, pack('>I2', priority) .. run_at
      for i = 1, count do
        local payload, id = list[at + 1 + i], id_bytes(last + i)
        local n = 2 * #ids
        ids[#ids + 1] = id
        jobs[n + 1], jobs[n + 2] = id, begins .. pack('>I4', #payload) .. ends
        payloads[n + 1], payloads[n + 2] = id, payload
        if queue == '' and flags == '' then
          members[#members + 1] = 0
          members[#members + 1] = line .. id
        elseif queue == '' then
          gather(inserted, FLAGGED, line .. id)
          gather(inserted, FLAGLINES, task .. '\0' .. flags .. '\0' .. place .. id)
        else
          gather(inserted, QUEUED, line .. id)
          gather(inserted, QLINES, queue .. '\0' .. place .. id .. task)
          if keeps_groups() then
            gather(inserted, GLINES, task .. '\0' .. queue .. '\0' .. place .. id)
            touched_groups[task .. '\0' .. queue] = true
          end
        end
      end
      if queue ~= '' then touched_queues[queue] = true end
      answer = id_bytes(last + 1)
      if key ~= '' then gather(set, KEYED, key, answer) end
    end
    answers[run] = answer
    at = at + 2 + count
  end
  -- What a key was taken from is written before what has it now.
  local id_members = {}
  for i, id in ipairs(ids) do id_members[2 * i - 1], id_members[2 * i] = 0, id end
  send_list('HSET', JOBS, jobs)
  send_list('HSET', PAYLOADS, payloads)
  send_list('ZADD', IDS, id_members)
  send_list('ZADD', LINES, members)
  flush()
  return answers, ready, lines, at
end

-- A document is kept under its kind, a NUL and its key: 8 bytes of its version, 8 of its end or zeros, its owner or nothing, a NUL, its value.
local function put_document(field, bytes)
  local old = call('HGET', DOCS, field)
  if old then
    if sub(old, 9, 16) ~= NONE then call('ZREM', DOCENDS, sub(old, 9, 16) .. field) end
    local owner = string.match(old, '^([^%z]*)', 17)
    if owner ~= '' then call('ZREM', DOCOWNERS, owner .. '\0' .. field) end
  end
  if bytes == '' then
    call('HDEL', DOCS, field)
    call('ZREM', DOCKEYS, field)
    return
  end
  call('HSET', DOCS, field, bytes)
  call('ZADD', DOCKEYS, 0, field)
  if sub(bytes, 9, 16) ~= NONE then call('ZADD', DOCENDS, 0, sub(bytes, 9, 16) .. field) end
  local owner = string.match(bytes, '^([^%z]*)', 17)
  if owner ~= '' then call('ZADD', DOCOWNERS, 0, owner .. '\0' .. field) end
end

-- A worker and its documents are gone.
local function forget_worker(worker)
  call('HDEL', WORKERS, worker)
  call('HDEL', SEEN, worker)
  call('HDEL', SERVES, worker)
  call('HDEL', STATUS, worker)
  call('HDEL', OFFERS, worker)
  local prefix = worker .. '\0'
  for _, member in ipairs(call('ZRANGEBYLEX', DOCOWNERS, '[' .. prefix, '(' .. worker .. '\1')) do
    put_document(sub(member, #prefix + 1), '')
  end
end

-- Frees the serial queues that somebody holds.
local function free_queues_of(holder)
  local prefix = holder .. '\0'
  for _, member in ipairs(call('ZRANGEBYLEX', QHELD, '[' .. prefix, '(' .. holder .. '\1')) do
    local queue = sub(member, #prefix + 1)
    call('ZREM', QHELD, member)
    call('HSET', QUEUES, queue, '')
    touched_queues[queue] = true
  end
end

local function is_there(document, now_bytes)
  local ends = sub(document, 9, 16)
  return ends == NONE or is_before(now_bytes, ends)
end

-- Gives back what a lease that has ended holds: where it stood, with its attempt used.
local function give_back(id, old, lines)
  if old.queue ~= '' then free_queue(old.queue, old.locked, old.holder) end
  change(id, old, freed(old))
  lines[old.task] = true
end

-- Of all leases, at the most so many; the ids.
local function end_all_leases(now, limit, lines)
  local ended = {}
  for _, member in ipairs(call('ZRANGEBYLEX', LEASES, '-', '(' .. moment_bytes(now + 1), 'LIMIT', 0, limit)) do
    local id = sub(member, 9)
    give_back(id, read(call('HGET', JOBS, id)), lines)
    ended[#ended + 1] = id
  end
  flush()
  return ended
end

-- The members of a line in one sorted set that are ready at a moment, in their order: a function that answers one after the other, with its place.
-- What is not ready ends a priority.
local function ready_members(key, line, ready_by, chunk)
  local begin, to = #line + 2, '(' .. line .. '\1'
  local from, members, at, ended = '[' .. line .. '\0', {}, 0, false
  return function()
    while true do
      at = at + 1
      local member = members[at]
      if member then
        local place = sub(member, begin, begin + 17)
        if not is_before(ready_by, sub(place, 3, 10)) then return member, place end
        local priority = unpack_numbers('>I2', place)
        if priority == 65535 then return nil end
        from, ended = '[' .. line .. '\0' .. pack('>I2', priority + 1), false
      elseif ended then
        return nil
      end
      members, at = call('ZRANGEBYLEX', key, from, to, 'LIMIT', 0, chunk), 0
      if #members == 0 then return nil end
      ended, from = #members < chunk, '(' .. members[#members]
    end
  end
end

-- The same of several sorted sets at once: a function that answers one place after the other.
local function ready_of_all(lines, ready_by, chunk)
  local sources = {}
  for _, line in ipairs(lines) do
    local following = ready_members(line.key, line.name, ready_by, chunk)
    local _, place = following()
    if place then sources[#sources + 1] = { following = following, place = place } end
  end
  return function()
    local first
    for i, source in ipairs(sources) do
      if not first or place_is_before(source.place, sources[first].place) then first = i end
    end
    if not first then return nil end
    local source = sources[first]
    local place = source.place
    local _, following = source.following()
    source.place = following
    if not source.place then table.remove(sources, first) end
    return place
  end
end
