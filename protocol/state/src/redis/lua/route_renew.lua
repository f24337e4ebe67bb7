-- Renews a device's route, if it still stands. KEYS: the user's routes. ARGV: device, `node%session%epoch%`, now, until, life in ms.
-- 1 if it was renewed, 0 if it does not stand.
local value = redis.call('HGET', KEYS[1], ARGV[1])
if not value or string.sub(value, 1, #ARGV[2]) ~= ARGV[2] then
  return 0
end
local ends = tonumber(string.sub(value, #ARGV[2] + 1))
if not ends or ends <= tonumber(ARGV[3]) then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ARGV[4])
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[5]) then
  redis.call('PEXPIRE', KEYS[1], ARGV[5])
end
return 1
