-- Forgets documents that have expired. ARGV: how many at the most.
local expired = call('ZRANGEBYLEX', DOCENDS, '-', '(' .. moment_bytes(present() + 1), 'LIMIT', 0, ARGV[1])
for _, member in ipairs(expired) do put_document(sub(member, 9), '') end
return #expired
