-- Forgets events of a stream, whose key is the last one. ARGV: the stream, the first position that stays.
local key = KEYS[#KEYS]
local gone = call('XTRIM', key, 'MINID', ARGV[2] .. '-0')
if call('XLEN', key) == 0 then call('ZREM', STREAMS, ARGV[1]) end
return gone
