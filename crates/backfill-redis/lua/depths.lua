-- Counts the jobs of lines: ready, delayed, held.
local until_now, counts = moment_bytes(present() + 1), {}
for _, line in ipairs(ARGV) do
  local ready, all = 0, 0
  for _, key in ipairs({ LINES, QUEUED }) do
    local prefix = line .. '\0'
    all = all + call('ZLEXCOUNT', key, '[' .. prefix, '(' .. line .. '\1')
    for _, first in ipairs(first_of_each(key, prefix)) do
      local level = prefix .. sub(first, #prefix + 1, #prefix + 2)
      ready = ready + call('ZLEXCOUNT', key, '[' .. level, '(' .. level .. until_now)
    end
  end
  counts[#counts + 1] = { ready, all - ready, tonumber(call('HGET', HELDN, line)) or 0 }
end
return counts
