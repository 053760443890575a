-- Stores jobs, all or none. ARGV: a head and a payload of each.
local now = present()
local answers, ready, lines = add_jobs(ARGV, 1, #ARGV / 2, now)
if ready > 0 then tell(ready, names(lines)) end
return { moment_bytes(now), answers }
