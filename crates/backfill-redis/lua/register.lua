-- Registers a worker, unless it is, and makes names of tasks known. ARGV: worker, what is kept of it, its tasks between NULs, then the tasks.
for at = 4, #ARGV do call('SADD', TASKS, ARGV[at]) end
if call('HEXISTS', WORKERS, ARGV[1]) == 1 then return 0 end
local now = moment_bytes(present())
call('HSET', WORKERS, ARGV[1], now .. ARGV[2])
call('HSET', SEEN, ARGV[1], now)
call('HSET', SERVES, ARGV[1], ARGV[3])
return 1
