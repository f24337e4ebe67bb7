-- Registers or renews a node. KEYS: the ids of its kind, the node.
-- ARGV: id, now, until, life in ms, most nodes of a kind, incarnation, and more fields and values.
-- 1 if it stands now, 0 if a later life of it is live, -1 if there are too many nodes.
-- What is of another type was spoilt by somebody: it goes, and is written anew, for no node can do without.
local function call(command, key, ...)
  local answer = redis.pcall(command, key, ...)
  if type(answer) == 'table' and answer.err then
    if string.find(answer.err, 'WRONGTYPE', 1, true) then
      redis.call('DEL', key)
    end
    answer = redis.call(command, key, ...)
  end
  return answer
end
local known, ends = unpack(call('HMGET', KEYS[2], 'incarnation', 'until'))
-- Incarnations may be too large for Lua's numbers: compared as text, the longer one is the larger.
local function is_later(a, b)
  return #a > #b or (#a == #b and a > b)
end
if known and tonumber(ends) > tonumber(ARGV[2]) and is_later(known, ARGV[6]) then
  return 0
end
call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[2])
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) and redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[5]) then
  return -1
end
redis.call('ZADD', KEYS[1], ARGV[3], ARGV[1])
redis.call('HSET', KEYS[2], 'until', ARGV[3], 'incarnation', ARGV[6], unpack(ARGV, 7))
redis.call('PEXPIRE', KEYS[2], ARGV[4])
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[4]) then
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
end
return 1
