-- Documents whose field begins so, that have not expired. ARGV: the beginning, the field after which they come or nothing, how many.
-- Looks at a thousand at the most: answers the field after which it goes on, or nothing; then field and value of each.
local begins, limit = ARGV[1], tonumber(ARGV[3])
local now, found = moment_bytes(present()), { false }
local from = ARGV[2] ~= '' and '(' .. ARGV[2] or '[' .. begins
local fields = call('ZRANGEBYLEX', DOCKEYS, from, '+', 'LIMIT', 0, math.min(math.max(limit, 100), 1000))
for i, field in ipairs(fields) do
  if sub(field, 1, #begins) ~= begins or #found > 2 * limit then return found end
  local document = call('HGET', DOCS, field)
  if is_there(document, now) then
    found[#found + 1] = field
    found[#found + 1] = document
  end
end
if #found <= 2 * limit and #fields > 0 then found[1] = fields[#fields] end
return found
