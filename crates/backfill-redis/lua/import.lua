-- Stores jobs that came from another storage, each once. ARGV: the run's worker, the transfer's id; of each job its old id, what is kept of it, and its payload.
-- Answers the old ids of those that are here or were; nothing if the run is not registered.
local run, transfer = ARGV[1], ARGV[2]
if call('HEXISTS', WORKERS, run) == 0 then return false end
local here, keys, count, tasks = {}, {}, 0, {}
for at = 3, #ARGV, 3 do
  local old_id, bytes, payload = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local known = transfer .. '\0' .. old_id
  local job = read(bytes)
  if keys[known] or call('ZSCORE', IMPORTS, known) then
    here[#here + 1] = old_id
  elseif job.key == '' or (not keys[job.key] and call('HEXISTS', KEYED, job.key) == 0) then
    if job.key ~= '' then keys[job.key] = true end
    change(id_bytes(call('HINCRBY', COUNTERS, 'id', 1)), nil, job, payload)
    gather(inserted, IMPORTS, known)
    keys[known] = true
    if job.queue ~= '' then call('HSETNX', QUEUES, job.queue, '') end
    tasks[job.task] = true
    here[#here + 1] = old_id
    count = count + 1
  end
end
for task in pairs(tasks) do call('SADD', TASKS, task) end
flush()
if count > 0 then tell(count, names(tasks)) end
return here
