-- The gate of crontabs. ARGV: the moment; of each entry its identifier, and a run of one job.
-- A record is 8 bytes since when the entry is known, and 8 of the last moment for which a job was added, or zeros.
local moment, now, added, count = ARGV[1], present(), {}, 0
for at = 2, #ARGV, 4 do
  local identifier = ARGV[at]
  local known = call('HGET', CRONTABS, identifier) or (moment .. NONE)
  local last = sub(known, 9, 16)
  if last ~= NONE and not is_before(last, moment) then
    added[#added + 1] = false
  else
    call('HSET', CRONTABS, identifier, sub(known, 1, 8) .. moment)
    local answers, ready = add_runs(ARGV, at + 1, 1, now)
    added[#added + 1] = answers[1]
    count = count + ready
  end
end
if count > 0 then tell(count) end
return { moment_bytes(now), added }
