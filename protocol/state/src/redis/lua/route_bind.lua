-- Binds a device. KEYS: the user's routes. ARGV: device, `node%session%epoch%`, now, until, life in ms.
-- The value that was bound before, or nil. What has run out goes, so that the hash holds no more than a user's devices.
local now, ends_last = tonumber(ARGV[3]), tonumber(ARGV[4])
local bound = redis.call('HGETALL', KEYS[1])
local before = false
for i = 1, #bound, 2 do
  if bound[i] == ARGV[1] then
    before = bound[i + 1]
  else
    local ends = tonumber(string.match(bound[i + 1], '%%(%d+)$'))
    if not ends or ends <= now then
      redis.call('HDEL', KEYS[1], bound[i])
    elseif ends > ends_last then
      ends_last = ends
    end
  end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ARGV[4])
-- The key lives as long as the longest of them, which need not be this one.
redis.call('PEXPIRE', KEYS[1], ends_last - tonumber(ARGV[4]) + ARGV[5])
return before
