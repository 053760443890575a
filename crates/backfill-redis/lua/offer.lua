-- That a worker would start a job at once, or would no more. ARGV: worker, channel, its tasks between NULs or nothing.
-- Answers 1 if the offer stands.
local worker, channel, tasks = ARGV[1], ARGV[2], ARGV[3]
local standing = call('HGET', OFFERS, worker)
if tasks == '' then
  -- One that another listener has made is its own.
  if standing and sub(standing, 9, 8 + #channel) == channel then call('HDEL', OFFERS, worker) end
  return 0
end
if call('HEXISTS', WORKERS, worker) == 0 then return 0 end
call('HSET', OFFERS, worker, (standing and sub(standing, 1, 8) or NONE) .. channel .. tasks)
return 1
