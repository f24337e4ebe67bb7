-- Takes or renews a lease. KEYS: the lease. ARGV: holder, now, until, until - now, least epoch of a name not known, life in ms, and for how
-- much less than that it may be known. What stands then: holder, epoch, until. Times and epochs stay text; the numbers made of them are
-- only compared.
local found = redis.pcall('HMGET', KEYS[1], 'holder', 'epoch', 'until', 'kept')
if found.err then
  -- Not a hash: no lease that could stand. Left as it is, the room would have no owner for ever.
  redis.call('DEL', KEYS[1])
  found = {}
end
local holder, epoch, ends, kept = unpack(found)
local now, asked = tonumber(ARGV[2]), tonumber(ARGV[4])
-- One that would stand far longer than is asked for was taken by a clock that has been set back since.
local stands = holder and tonumber(ends) > now and tonumber(ends) <= now + 10 * asked
if stands and holder ~= ARGV[1] then
  return { holder, epoch, ends }
end
local keep = now + tonumber(ARGV[6])
kept = tonumber(kept or '')
if stands and kept and kept <= keep and kept >= keep - tonumber(ARGV[7]) then
  -- By far the most frequent: a renewal.
  redis.call('HSET', KEYS[1], 'until', ARGV[3])
  return { holder, epoch, ARGV[3] }
end
if not epoch then
  epoch = ARGV[5]
elseif not stands then
  epoch = string.format('%.0f', tonumber(epoch) + 1)
end
redis.call('HSET', KEYS[1], 'holder', ARGV[1], 'epoch', epoch, 'until', ARGV[3], 'kept', string.format('%.0f', keep))
redis.call('PEXPIRE', KEYS[1], ARGV[6])
return { ARGV[1], epoch, ARGV[3] }
