-- Counts the jobs of lines: ready, delayed, held.
local until_now, counts = moment_bytes(present() + 1), {}
for _, line in ipairs(ARGV) do
  local ready, all = 0, 0
  local parts = lines_of(line)
  parts[#parts + 1] = { key = QUEUED, name = line }
  for _, part in ipairs(parts) do
    local prefix = part.name .. '\0'
    all = all + call('ZLEXCOUNT', part.key, '[' .. prefix, '(' .. part.name .. '\1')
    for _, first in ipairs(first_of_each(part.key, prefix)) do
      local level = prefix .. sub(first, #prefix + 1, #prefix + 2)
      ready = ready + call('ZLEXCOUNT', part.key, '[' .. level, '(' .. level .. until_now)
    end
  end
  counts[#counts + 1] = { ready, all - ready, tonumber(call('HGET', HELDN, line)) or 0 }
end
return counts
