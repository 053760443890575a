-- Makes crontab entries known. ARGV: what is kept of each new one, then their identifiers.
for at = 2, #ARGV do call('HSETNX', CRONTABS, ARGV[at], ARGV[1]) end
return #ARGV - 1
