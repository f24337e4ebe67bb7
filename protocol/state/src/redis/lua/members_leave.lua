-- Takes users out of a room. KEYS: the hash user -> devices, a bit each, and `until`. ARGV: now, until, life in ms, and for each user, once:
-- id, devices.
-- How many users there are now.
local users = {}
for i = 4, #ARGV, 2 do
  users[#users + 1] = ARGV[i]
end
local known = redis.call('HMGET', KEYS[1], 'until', unpack(users))
if not known[1] then
  return 0
end
if tonumber(known[1]) <= tonumber(ARGV[1]) then
  redis.call('DEL', KEYS[1])
  return 0
end
local gone, fields = {}, { 'until', ARGV[2] }
for i, user in ipairs(users) do
  if known[i + 1] then
    local left = bit.band(known[i + 1], bit.bnot(ARGV[3 + 2 * i]))
    if left == 0 then
      gone[#gone + 1] = user
    else
      fields[#fields + 1] = user
      fields[#fields + 1] = left
    end
  end
end
if #gone > 0 then
  redis.call('HDEL', KEYS[1], unpack(gone))
end
local count = redis.call('HLEN', KEYS[1]) - 1
if count == 0 then
  redis.call('DEL', KEYS[1])
else
  redis.call('HSET', KEYS[1], unpack(fields))
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
return count
