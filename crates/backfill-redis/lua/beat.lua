-- A heartbeat; or, with a second argument, what the worker says of itself. Answers whether it is registered.
if call('HEXISTS', WORKERS, ARGV[1]) == 0 then return 0 end
if ARGV[2] then
  call('HSET', STATUS, ARGV[1], ARGV[2])
else
  call('HSET', SEEN, ARGV[1], moment_bytes(present()))
end
return 1
