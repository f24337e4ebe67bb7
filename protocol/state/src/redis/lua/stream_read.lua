-- Reads a room's log or an inbox. ARGV from 5: first id, the id it is after (or nothing), most entries.
-- 1 where something after that id was trimmed, and the entries, oldest first.
if not notes then
  return { 0, {} }
end
if trim() then
  write_notes('KEEPTTL')
end
local has_gap = ARGV[6] ~= '' and notes.trimmed ~= '' and is_after(notes.trimmed, ARGV[6])
return { has_gap and 1 or 0, redis.call('XRANGE', KEYS[1], ARGV[5], '+', 'COUNT', ARGV[7]) }
