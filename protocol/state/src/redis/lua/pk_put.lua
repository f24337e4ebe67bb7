-- Puts a bar, unless the one there is newer. ARGV from 4: challenger, of which PK, value, the last gift, winner or an empty text.
-- The bar that stands.
local bar = read(tonumber(ARGV[1]))
local since, seq = tonumber(ARGV[5]), tonumber(ARGV[7])
if bar and (bar.since > since or bar.since == since and bar.seq > seq) then
  return bar.texts
end
local winner = ARGV[8] ~= '' and ARGV[8]
if not winner then
  -- That of an earlier PK, or what somebody put there.
  redis.call('DEL', KEYS[4])
end
return write(ARGV[4], ARGV[5], ARGV[6], ARGV[7], winner)
