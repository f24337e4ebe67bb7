-- Moves a bar by one gift. ARGV from 4: of which PK, the gift before, the gift, how far.
-- 1 and the bar if it was moved; 0 and the bar that stands where this gift or a later one was applied, or a later PK has begun; nothing
-- where there is no such bar, or where it has not seen the gift before.
local bar = read(tonumber(ARGV[1]))
local since, after, seq = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
if not bar or bar.since < since then
  return false
end
if bar.since > since or seq <= bar.seq then
  return { 0, bar.texts }
end
if bar.seq < after then
  return false
end
local value, winner = bar.value, bar.winner
if not winner then
  value = math.min(math.max(value + tonumber(ARGV[7]), 0), TOP)
  winner = winner_at(value)
end
return { 1, write(bar.challenger, ARGV[4], string.format('%d', value), ARGV[6], winner) }
