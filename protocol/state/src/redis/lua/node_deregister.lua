-- This life of a node goes. KEYS: the nodes of its kind. ARGV: id, incarnation.
local said = redis.call('HGET', KEYS[1], ARGV[1])
if said and string.match(said, '^(%d+)\n') == ARGV[2] then
  redis.call('HDEL', KEYS[1], ARGV[1])
end
return redis.status_reply('OK')
