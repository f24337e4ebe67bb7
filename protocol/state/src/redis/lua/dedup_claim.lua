-- Claims one message. KEYS: the claim. ARGV: now, until, life in ms.
-- 1 if it was free, 0 if a claim stands.
local standing = redis.call('GET', KEYS[1])
if standing and tonumber(ARGV[1]) < tonumber(standing) then
  return 0
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
