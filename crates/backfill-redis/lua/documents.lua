-- Documents whose field begins so, that have not expired. ARGV: the beginning, the field after which they come or nothing, how many. Answers field and value of each.
local begins, limit = ARGV[1], tonumber(ARGV[3])
local now, found = moment_bytes(present()), {}
local from = ARGV[2] ~= '' and '(' .. ARGV[2] or '[' .. begins
while #found < 2 * limit do
  local fields = call('ZRANGEBYLEX', DOCKEYS, from, '+', 'LIMIT', 0, 500)
  if #fields == 0 then return found end
  for _, field in ipairs(fields) do
    if sub(field, 1, #begins) ~= begins then return found end
    local document = call('HGET', DOCS, field)
    if is_there(document, now) then
      found[#found + 1] = field
      found[#found + 1] = document
      if #found == 2 * limit then return found end
    end
  end
  from = '(' .. fields[#fields]
end
return found
