-- Forgets users whose last sign of life is old. KEYS: the bucket. ARGV: before when, at most how many.
-- Their ids.
local users = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '(' .. ARGV[1], 'LIMIT', 0, ARGV[2])
if #users > 0 then
  redis.call('ZREM', KEYS[1], unpack(users))
end
return users
