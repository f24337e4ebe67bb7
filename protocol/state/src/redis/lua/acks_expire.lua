-- Takes out pending ACKs of one shard that were due some time ago. KEYS as in acks_record. ARGV: before when, at most how many.
-- Fields and values in turn.
local fields = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', '(' .. ARGV[1], 'LIMIT', 0, ARGV[2])
if #fields == 0 then
  return {}
end
local expired = {}
for i, value in ipairs(redis.call('HMGET', KEYS[1], unpack(fields))) do
  if value then
    expired[#expired + 1] = fields[i]
    expired[#expired + 1] = value
  end
end
redis.call('HDEL', KEYS[1], unpack(fields))
redis.call('ZREM', KEYS[2], unpack(fields))
redis.call('ZREM', KEYS[3], unpack(fields))
return expired
