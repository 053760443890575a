-- Releases what holders hold. ARGV: how; then of
--   untracked: worker, then the ids that it holds knowingly. They get their attempt back.
--   deregister: worker. The same, and it is gone.
--   unlock: workers, which are gone. Nothing else of their jobs changes.
--   stale: a moment. What was locked before it by holders that are not registered, but for leases.
--   rescue: the moment of the heartbeat by which the caller judged, worker, the error, 1 for in place, a number by chance. The worker is gone.
-- Answers how many jobs were released, and of `untracked` the moment; nothing if a rescued worker was seen meanwhile.
local how = ARGV[1]
local now = present()
local now_bytes = moment_bytes(now)
local released, tasks = 0, {}

local function release_job(id, old, and_then)
  local new = freed(old)
  and_then(new, old)
  change(id, old, new)
  released = released + 1
  tasks[old.task] = true
end

local function release(holder, and_then, except)
  for _, member in ipairs(call('ZRANGEBYLEX', HELD, '[' .. holder .. '\0', '(' .. holder .. '\1')) do
    local id = sub(member, -8)
    if not except[id] then release_job(id, read(call('HGET', JOBS, id)), and_then) end
  end
end

local function not_before_now(job)
  if is_before(job.run_at, now_bytes) then job.run_at = now_bytes end
end

local function give_attempt_back(job, old)
  -- Whoever takes the key of a running job uses its attempts up, and changes it after it was claimed.
  local is_taken_over = job.attempts >= job.max and is_before(old.locked, job.updated)
  if not is_taken_over then job.attempts = math.max(job.attempts - 1, 0) end
  if old.queue ~= '' then free_queue(old.queue, old.locked, old.holder) end
end

local moment
if how == 'untracked' then
  -- What was handed off before this moment and not heard of is released; from then on nothing is.
  call('HDEL', OFFERS, ARGV[2])
  moment = claim_moment(now)
  local tracked = {}
  for at = 3, #ARGV do tracked[ARGV[at]] = true end
  release(ARGV[2], give_attempt_back, tracked)
elseif how == 'deregister' then
  forget_worker(ARGV[2])
  release(ARGV[2], give_attempt_back, {})
  free_queues_of(ARGV[2])
elseif how == 'unlock' then
  for at = 2, #ARGV do
    forget_worker(ARGV[at])
    release(ARGV[at], function() end, {})
    free_queues_of(ARGV[at])
    flush()
  end
elseif how == 'rescue' then
  local seen, worker, error_text, in_place = ARGV[2], ARGV[3], ARGV[4], ARGV[5] == '1'
  if call('HGET', SEEN, worker) ~= seen then return false end
  math.randomseed(tonumber(ARGV[6]))
  forget_worker(worker)
  release(worker, function(job)
    job.error = '!' .. error_text
    if in_place then return end
    not_before_now(job)
    -- `Rescued::spread`.
    if job.attempts > 1 then
      local spread = math.min(2 * math.exp(job.attempts), 600) * math.random()
      job.run_at = moment_bytes(micros_of(job.run_at) + math.floor(spread * 1000000))
    end
  end, {})
  free_queues_of(worker)
elseif how == 'stale' then
  -- Of those that are not registered, what was locked before a moment.
  local before = ARGV[2]
  local registered = {}
  for _, worker in ipairs(call('HKEYS', WORKERS)) do registered[worker] = true end
  -- Leases, of which there may be very many, end by themselves.
  for _, range in ipairs({ { '-', '(lease:' }, { '[lease;', '+' } }) do
    for _, member in ipairs(call('ZRANGEBYLEX', HELD, range[1], range[2])) do
      local id, holder = sub(member, -8), sub(member, 1, -10)
      local job = not registered[holder] and read(call('HGET', JOBS, id))
      if job and is_before(job.locked, before) then release_job(id, job, not_before_now) end
    end
  end
  for _, member in ipairs(call('ZRANGE', QHELD, 0, -1)) do
    local holder, queue = string.match(member, '^([^%z]*)%z(.*)$')
    local lock = call('HGET', QUEUES, queue)
    if not registered[holder] and lock and lock ~= '' and is_before(sub(lock, 1, 8), before) then
      free_queue(queue, sub(lock, 1, 8), holder)
    end
  end
end
flush()
if released > 0 then tell(released, names(tasks)) end
return { released, moment or NONE }
