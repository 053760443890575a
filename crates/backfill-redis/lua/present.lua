-- Reads what units need. ARGV: how many versions of documents are wanted; then lists, each behind its length: fields of documents, owners, ids, keys of jobs.
local at = 1
local function values(key, command)
  at = at + 1
  local found = {}
  for i = 1, tonumber(ARGV[at]) do found[i] = call(command, key, ARGV[at + i]) end
  at = at + tonumber(ARGV[at])
  return found
end
local versions = tonumber(ARGV[1])
local last = versions > 0 and call('HINCRBY', COUNTERS, 'version_of_documents', versions) or 0
return {
  moment_bytes(present()), last, values(DOCS, 'HGET'), values(WORKERS, 'HEXISTS'), values(JOBS, 'HGET'), values(KEYED, 'HGET'),
}
