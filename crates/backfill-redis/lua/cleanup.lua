-- Forgets names. ARGV: 'tasks' and then those to keep, which are all that any job has among them; or 'queues' and those.
-- Answers how many. What was used meanwhile is not forgotten: a name is looked for again before it goes.
local what, keep, gone = ARGV[1], {}, 0
for at = 2, #ARGV do keep[ARGV[at]] = true end
local function has_none(key, name)
  return #call('ZRANGEBYLEX', key, '[' .. name .. '\0', '(' .. name .. '\1', 'LIMIT', 0, 1) == 0
end
if what == 'tasks' then
  for _, task in ipairs(call('SMEMBERS', TASKS)) do
    local unused = not keep[task] and has_none(LINES, task) and has_none(FLAGGED, task) and has_none(QUEUED, task) and has_none(DEAD, task)
    if unused and call('HEXISTS', HELDN, task) == 0 then
      call('SREM', TASKS, task)
      gone = gone + 1
    end
  end
else
  for _, queue in ipairs(call('HKEYS', QUEUES)) do
    if not keep[queue] and call('HGET', QUEUES, queue) == '' and has_none(QLINES, queue) then
      call('HDEL', QUEUES, queue)
      gone = gone + 1
    end
  end
  -- When something of a queue was last taken in line is forgotten with it.
  for _, turn in ipairs(call('HKEYS', TURNS)) do
    if call('HEXISTS', QUEUES, string.match(turn, '%z(.*)$')) == 0 then call('HDEL', TURNS, turn) end
  end
end
return gone
