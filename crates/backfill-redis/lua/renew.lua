-- Lets leases end later, or now. ARGV: of each the job's id, what its holder's name begins with, microseconds. Answers the ids of those that stood.
local now, renewed = present(), {}
local now_bytes = moment_bytes(now)
for at = 1, #ARGV, 3 do
  local id, begins, bytes = ARGV[at], ARGV[at + 1], call('HGET', JOBS, ARGV[at])
  local old = bytes and read(bytes)
  if old and sub(old.holder, 1, #begins) == begins and is_before(now_bytes, old.locked) then
    local new = read(bytes)
    new.locked = moment_bytes(now + tonumber(ARGV[at + 2]))
    if old.queue ~= '' and call('HGET', QUEUES, old.queue) == old.locked .. old.holder then
      call('HSET', QUEUES, old.queue, new.locked .. old.holder)
    end
    change(id, old, new)
    flush()
    renewed[#renewed + 1] = id
  end
end
return renewed
