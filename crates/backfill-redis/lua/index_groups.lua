-- Makes a part of the index of groups, which is kept from then on: what waits, then what is held. Answers 1 when all of it is there.
local come = keeps_groups()
if come == '1' then return 1 end
in_line = come or 'w'
local phase, from = sub(in_line, 1, 1), sub(in_line, 2)
local key = phase == 'w' and QUEUED or HELD
local members = call('ZRANGEBYLEX', key, from == '' and '-' or '(' .. from, '+', 'LIMIT', 0, 1000)
for _, member in ipairs(members) do
  local id = sub(member, -8)
  local job = read(call('HGET', JOBS, id))
  if job.queue ~= '' then
    gather(inserted, phase == 'w' and GLINES or GHELD, job.task .. '\0' .. job.queue .. '\0' .. place_of(id, job))
    touch_group(job)
  end
end
local next_part = phase .. (members[#members] or '')
if #members < 1000 then next_part = phase == 'w' and 'h' or '1' end
call('HSET', COUNTERS, 'in_line', next_part)
flush()
return next_part == '1' and 1 or 0
