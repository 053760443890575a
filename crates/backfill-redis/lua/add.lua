-- Stores jobs, all or none. ARGV: how many runs, and these.
local now = present()
local answers, ready, lines = add_runs(ARGV, 2, tonumber(ARGV[1]), now)
if ready > 0 then tell(ready, names(lines)) end
return { moment_bytes(now), answers }
