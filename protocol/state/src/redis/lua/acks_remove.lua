-- Removes pending ACKs of one shard. KEYS as in acks_record. ARGV: `user:message` of each.
if redis.call('HDEL', KEYS[1], unpack(ARGV)) > 0 then
  redis.call('ZREM', KEYS[2], unpack(ARGV))
  redis.call('ZREM', KEYS[3], unpack(ARGV))
end
return redis.status_reply('OK')
