-- Deletes a device's route, if it still stands. KEYS: the user's routes. ARGV: device, `node%session%epoch%`, the number below which fields
-- are devices.
-- 1 if the user has another route then, 0 if none.
local bound = redis.call('HGETALL', KEYS[1])
local left = 0
for i = 1, #bound, 2 do
  local value = bound[i + 1]
  if (tonumber(bound[i]) or math.huge) < tonumber(ARGV[3]) then
    left = left + 1
  end
  if bound[i] == ARGV[1] and string.sub(value, 1, #ARGV[2]) == ARGV[2] and tonumber(string.sub(value, #ARGV[2] + 1)) then
    redis.call('HDEL', KEYS[1], ARGV[1])
    left = left - 1
  end
end
return left > 0 and 1 or 0
