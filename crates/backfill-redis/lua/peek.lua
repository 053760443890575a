-- The first ready jobs of a line. ARGV: the line, how many. Answers of each its id, what is kept of it, its payload.
local limit, found = tonumber(ARGV[2]), {}
local lines = lines_of(ARGV[1])
lines[#lines + 1] = { key = QUEUED, name = ARGV[1] }
local next_place = ready_of_all(lines, moment_bytes(present()), math.min(limit + 1, 500))
while #found < 3 * limit do
  local place = next_place()
  if not place then break end
  local id = sub(place, -8)
  found[#found + 1] = id
  found[#found + 1] = call('HGET', JOBS, id)
  found[#found + 1] = call('HGET', PAYLOADS, id)
end
return found
