-- Sets which tasks a registered worker runs. ARGV: worker, its tasks between NULs, then the tasks.
for at = 3, #ARGV do call('SADD', TASKS, ARGV[at]) end
if call('HEXISTS', WORKERS, ARGV[1]) == 0 then return 0 end
call('HSET', SERVES, ARGV[1], ARGV[2])
return 1
