-- Removes acknowledged entries. KEYS: the stream, the notes. ARGV: life in ms of an inbox that is empty, how long it is known after its
-- last message with entries and how long without, ids.
-- How many there were.
local notes = redis.call('GET', KEYS[2])
if not notes then
  return 0
end
local ends, known, entries, bytes, oldest = string.match(notes, '^(%d+)(%%[%d%-]+%%[%d%-]*)%%(%d+)%%(%d+)%%(%d+)$')
if not ends then
  return 0
end
local acked, freed = {}, 0
for i = 4, #ARGV do
  local entry = redis.call('XRANGE', KEYS[1], ARGV[i], ARGV[i])[1]
  if entry then
    acked[#acked + 1] = ARGV[i]
    freed = freed + #entry[2][4]
  end
end
if #acked == 0 then
  return 0
end
entries, bytes = tonumber(entries) - #acked, tonumber(bytes) - freed
if entries > 0 then
  redis.call('XDEL', KEYS[1], unpack(acked))
  redis.call('SET', KEYS[2], string.format('%s%s%%%d%%%d%%%s', ends, known, entries, bytes, oldest), 'KEEPTTL')
else
  redis.call('DEL', KEYS[1])
  ends = tonumber(ends) - tonumber(ARGV[2]) + tonumber(ARGV[3])
  redis.call('SET', KEYS[2], string.format('%.0f%s%%0%%0%%%s', ends, known, oldest), 'PX', ARGV[1])
end
return #acked
