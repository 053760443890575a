-- Gives back what ended leases hold. ARGV: 'all' and how many at the most, or 'these' and ids. Answers the ids, and when the next of those that were looked at ends.
local now, lines, ended, next_end = present(), {}, {}, false
if ARGV[1] == 'all' then
  ended = end_all_leases(now, tonumber(ARGV[2]), lines)
  local first = call('ZRANGE', LEASES, 0, 0)[1]
  next_end = first and sub(first, 1, 8) or false
else
  local now_bytes = moment_bytes(now)
  for at = 2, #ARGV do
    local bytes = call('HGET', JOBS, ARGV[at])
    local job = bytes and read(bytes)
    if job and sub(job.holder, 1, 6) == 'lease:' then
      if not is_before(now_bytes, job.locked) then
        give_back(ARGV[at], job, lines)
        flush()
        ended[#ended + 1] = ARGV[at]
      elseif not next_end or is_before(job.locked, next_end) then
        next_end = job.locked
      end
    end
  end
end
if #ended > 0 then tell(#ended, names(lines)) end
return { ended, next_end }
