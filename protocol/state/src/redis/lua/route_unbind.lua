-- Deletes a device's route, if it still stands. KEYS: the user's routes. ARGV: device, `node%session%epoch%`.
local value = redis.call('HGET', KEYS[1], ARGV[1])
if value and string.sub(value, 1, #ARGV[2]) == ARGV[2] and tonumber(string.sub(value, #ARGV[2] + 1)) then
  redis.call('HDEL', KEYS[1], ARGV[1])
end
return redis.status_reply('OK')
