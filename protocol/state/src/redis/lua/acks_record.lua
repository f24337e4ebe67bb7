-- Records pending ACKs of one shard. KEYS: the hash `user:message` -> `times%due%room`, the same fields by the time they are due, and in
-- the order of their names (a user's stand together). ARGV: most of one user, life in ms, and for each ACK: user, message, value, due.
local of_user, values, due, names = {}, {}, {}, {}
local most = tonumber(ARGV[1])
for i = 3, #ARGV, 4 do
  local user, field = ARGV[i], ARGV[i] .. ':' .. ARGV[i + 1]
  of_user[user] = (of_user[user] or 0) + 1
  local n = #values
  values[n + 1], values[n + 2] = field, ARGV[i + 2]
  due[n + 1], due[n + 2] = ARGV[i + 3], field
  names[n + 1], names[n + 2] = 0, field
end

-- Where all of a user's fields stand: `;` is the character after `:`.
local function range_of(user)
  return '[' .. user .. ':', '(' .. user .. ';'
end

local function all_fit()
  if redis.call('HLEN', KEYS[1]) + #values / 2 <= most then
    return true
  end
  for user, added in pairs(of_user) do
    if redis.call('ZLEXCOUNT', KEYS[3], range_of(user)) + added > most then
      return false
    end
  end
  return true
end

-- Makes room for one more of a user: what is due soonest gives way, of several the first by name.
local function make_room(user)
  local fields = redis.call('ZRANGEBYLEX', KEYS[3], range_of(user))
  if #fields < most then
    return
  end
  local soonest, soonest_due
  for i, value in ipairs(redis.call('HMGET', KEYS[1], unpack(fields))) do
    local at = tonumber(string.match(value or '', '^%d+%%(%d+)%%') or 0)
    if not soonest or at < soonest_due then
      soonest, soonest_due = fields[i], at
    end
  end
  redis.call('HDEL', KEYS[1], soonest)
  redis.call('ZREM', KEYS[2], soonest)
  redis.call('ZREM', KEYS[3], soonest)
end

if all_fit() then
  redis.call('HSET', KEYS[1], unpack(values))
  redis.call('ZADD', KEYS[2], unpack(due))
  redis.call('ZADD', KEYS[3], unpack(names))
else
  for i = 3, #ARGV, 4 do
    local at = (i - 3) / 2 + 1
    if redis.call('HEXISTS', KEYS[1], values[at]) == 0 then
      make_room(ARGV[i])
    end
    redis.call('HSET', KEYS[1], values[at], values[at + 1])
    redis.call('ZADD', KEYS[2], due[at], due[at + 1])
    redis.call('ZADD', KEYS[3], 0, values[at])
  end
end
-- The three come and go together. What they live for is longer than it need be by more than what it may be short of here.
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) - 3600000 then
  for _, key in ipairs(KEYS) do
    redis.call('PEXPIRE', key, ARGV[2])
  end
end
return redis.status_reply('OK')
