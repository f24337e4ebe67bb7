-- Takes or renews a lease. KEYS: the lease. ARGV: holder, now, until, until - now, least epoch of a name not known, life in ms.
-- What stands then: holder, epoch, until. Times and epochs stay text; the numbers made of them are only compared.
local holder, epoch, ends = unpack(redis.call('HMGET', KEYS[1], 'holder', 'epoch', 'until'))
local now, asked = tonumber(ARGV[2]), tonumber(ARGV[4])
-- One that would stand far longer than is asked for was taken by a clock that has been set back since.
local stands = holder and tonumber(ends) > now and tonumber(ends) <= now + 10 * asked
if stands and holder ~= ARGV[1] then
  return { holder, epoch, ends }
end
if not epoch then
  epoch = ARGV[5]
elseif not stands then
  epoch = string.format('%.0f', tonumber(epoch) + 1)
end
redis.call('HSET', KEYS[1], 'holder', ARGV[1], 'epoch', epoch, 'until', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[6])
return { ARGV[1], epoch, ARGV[3] }
