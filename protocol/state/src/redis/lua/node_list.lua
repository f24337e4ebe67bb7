-- The live nodes of a kind: ids with their fields. KEYS: the ids of the kind. ARGV: now, what a node's key begins with, at most how many.
-- The nodes' keys have the tag of the first.
local ids = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. ARGV[1], '+inf', 'LIMIT', 0, ARGV[3])
local nodes = {}
for i, id in ipairs(ids) do
  nodes[i] = { id, redis.call('HGETALL', ARGV[2] .. id) }
end
return nodes
