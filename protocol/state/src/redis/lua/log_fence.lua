-- Fences a room's log. ARGV from 5: until, life in ms, id that is to be the newest there ever was, if none is above it.
-- The newest there ever was.
if not notes then
  begin()
end
if is_after(ARGV[7], notes.last) then
  notes.last = ARGV[7]
end
notes.ends = ARGV[5]
write_notes('PX', ARGV[6])
if notes.entries > 0 then
  redis.call('PEXPIRE', KEYS[1], ARGV[6])
end
return notes.last
