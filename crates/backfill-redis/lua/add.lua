-- Stores jobs, all or none. ARGV: how many runs, and these.
local now = present()

-- A single job that nothing stands in the way of may go straight to a worker that waits for one: it is stored as claimed, and told on the channel that
-- this worker alone listens to. An offer has 8 bytes of the id that was last handed off, the channel, and the tasks between NULs. While that last job is
-- still held, nothing is handed off: a worker that was stopped makes one job late, and not all of them.
local function hand_off(head, payload)
  local found = call('HRANDFIELD', OFFERS, 1, 'WITHVALUES')
  if #found == 0 or #payload > 65536 then return nil end
  local _, kind, _, max, priority = unpack_numbers('>BBc8I2I2', head)
  local task, queue, key, flags = string.match(head, '^([^%z]*)%z([^%z]*)%z([^%z]*)%z(.*)$', 15)
  -- One in its last attempt would be dead without ever having run, if its worker died before it started.
  if kind ~= 0 or max < 2 or queue ~= '' or key ~= '' or flags ~= '' then return nil end
  local worker, offer = found[1], found[2]
  if not string.find(offer, '\0' .. task .. '\0', 9, true) or call('HEXISTS', WORKERS, worker) == 0 then return nil end
  if call('ZSCORE', HELD, worker .. '\0' .. sub(offer, 1, 8)) then return nil end
  -- Whether somebody hears it on this server tells whether the worker is there. What is published goes to others of its cluster, too, and must
  -- not be heard there: so it is asked first. (Whoever may not publish adds as always.)
  local channel = string.match(sub(offer, 9), '^[^%z]*')
  local listeners = redis.pcall('PUBSUB', 'NUMSUB', channel)
  if listeners.err then return nil end
  if tonumber(listeners[2]) == 0 then
    call('HDEL', OFFERS, worker)
    return nil
  end
  local id, now_bytes = id_bytes(call('HINCRBY', COUNTERS, 'id', 1)), moment_bytes(now)
  local job = written({
    attempts = 1, max = max, priority = priority, revision = 0, bytes = #payload, run_at = now_bytes, created = now_bytes,
    updated = now_bytes, locked = claim_moment(now), holder = worker, task = task, queue = '', key = '', flags = '', error = '',
  })
  local heard = redis.pcall('PUBLISH', channel, id .. pack('>I4', #job) .. job .. payload)
  if type(heard) ~= 'number' then return nil end
  call('HSET', OFFERS, worker, id .. sub(offer, 9))
  call('SADD', TASKS, task)
  call('HSET', JOBS, id, job)
  call('HSET', PAYLOADS, id, payload)
  call('ZADD', IDS, 0, id)
  call('ZADD', HELD, 0, worker .. '\0' .. id)
  call('HINCRBY', HELDN, task, 1)
  return { id, job, payload }
end

local handed_off = #ARGV == 4 and hand_off(ARGV[2], ARGV[4])
if handed_off then return { moment_bytes(now), { handed_off } } end
local answers, ready, lines = add_runs(ARGV, 2, tonumber(ARGV[1]), now)
if ready > 0 then tell(ready, names(lines)) end
return { moment_bytes(now), answers }
