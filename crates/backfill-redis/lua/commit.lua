-- Writes what its caller has decided, if all that the decision rests on is still so; answers nothing otherwise, and then has written nothing.
-- ARGV: lists, each behind its length. First what was read: jobs (id, what is kept or nothing), documents (field, what is kept or nothing), keys of jobs (key,
-- id or nothing), workers (worker, 1 or 0). Then what to write: jobs (id, what to keep or nothing, 1 and a payload or 0 and nothing), queues to free (name,
-- moment, holder), documents (field, what to keep or nothing), batches of jobs to add (how many runs, and these), events (the
-- place of their stream's key in KEYS, the stream's name, a payload). Last: how many of the jobs that are written are ready, and three texts to tell: lines, kinds, streams.
local at = 0
local function argument()
  at = at + 1
  return ARGV[at]
end
local function count() return tonumber(argument()) end
local function is_as_read(key)
  for _ = 1, count() do
    local field, kept = argument(), argument()
    if (call('HGET', key, field) or '') ~= kept then return false end
  end
  return true
end
if not is_as_read(JOBS) or not is_as_read(DOCS) or not is_as_read(KEYED) then return false end
for _ = 1, count() do
  local worker, there = argument(), argument()
  if call('HEXISTS', WORKERS, worker) ~= tonumber(there) then return false end
end

local now = present()
for _ = 1, count() do
  local id, bytes, has_payload, payload = argument(), argument(), argument(), argument()
  local old = call('HGET', JOBS, id)
  change(id, old and read(old) or nil, bytes ~= '' and read(bytes) or nil, has_payload == '1' and payload or nil)
end
for _ = 1, count() do
  local queue, moment, holder = argument(), argument(), argument()
  free_queue(queue, moment, holder)
end
flush()
for _ = 1, count() do
  local field, bytes = argument(), argument()
  put_document(field, bytes)
end
local answers, ready = {}, 0
for _ = 1, count() do
  local runs = count()
  local added, their_ready, _, after = add_runs(ARGV, at + 1, runs, now)
  at, ready = after - 1, ready + their_ready
  for _, answer in ipairs(added) do answers[#answers + 1] = answer end
end
local positions = {}
local events = count()
if events > 0 then
  local last = call('HINCRBY', COUNTERS, 'position', events) - events
  for i = 1, events do
    local key, stream, payload = KEYS[count()], argument(), argument()
    positions[i] = string.format('%.0f', last + i)
    call('XADD', key, positions[i] .. '-0', 'at', string.format('%.0f', now), 'p', payload)
    call('ZADD', STREAMS, 0, stream)
  end
end
ready = ready + count()
local lines, kinds, streams = argument(), argument(), argument()
if ready > 0 or lines ~= '' or kinds ~= '' or streams ~= '' then tell(ready, lines, kinds, streams) end
return { moment_bytes(now), answers, positions }
