-- Puts users into a room. KEYS: the hash user -> devices, a bit each, and `until`. ARGV: now, until, life in ms, and for each user, once:
-- id, devices.
-- How many users there are now.
local users = {}
for i = 4, #ARGV, 2 do
  users[#users + 1] = ARGV[i]
end
local known = redis.call('HMGET', KEYS[1], 'until', unpack(users))
if known[1] and tonumber(known[1]) <= tonumber(ARGV[1]) then
  redis.call('DEL', KEYS[1])
  known = {}
end
if #users > 0 then
  local fields = { 'until', ARGV[2] }
  for i, user in ipairs(users) do
    local before = tonumber(known[i + 1] or 0)
    local after = bit.bor(before, ARGV[3 + 2 * i])
    if after ~= before then
      fields[#fields + 1] = user
      fields[#fields + 1] = after
    end
  end
  redis.call('HSET', KEYS[1], unpack(fields))
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
return math.max(redis.call('HLEN', KEYS[1]) - 1, 0)
