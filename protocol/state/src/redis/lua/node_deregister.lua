-- This life of a node goes. KEYS: the ids of its kind, the node. ARGV: id, incarnation.
if redis.call('HGET', KEYS[2], 'incarnation') == ARGV[2] then
  redis.call('DEL', KEYS[2])
  redis.call('ZREM', KEYS[1], ARGV[1])
end
return redis.status_reply('OK')
