-- Gives a lease up, if it is still this holder's. KEYS: the lease. ARGV: holder, epoch.
local holder, epoch = unpack(redis.call('HMGET', KEYS[1], 'holder', 'epoch'))
if holder == ARGV[1] and epoch == ARGV[2] then
  redis.call('HDEL', KEYS[1], 'holder', 'until')
end
return redis.status_reply('OK')
