-- Takes users out of a room. KEYS: the hash user -> devices, a bit each, and `until`, see `members_join.lua`. ARGV: now, until, life of the key
-- in ms, by how much less than that it may live, and for each user, once: id, devices.
-- How many users there are now.
local users = {}
for i = 5, #ARGV, 2 do
  users[#users + 1] = ARGV[i]
end
local known = redis.call('HMGET', KEYS[1], 'until', unpack(users))
if not known[1] then
  return 0
end
local ends, kept, count = string.match(known[1], '^(%d+)%%(%d+)%%(%d+)$')
local now, keep = tonumber(ARGV[1]), tonumber(ARGV[1]) + tonumber(ARGV[3])
ends, kept, count = tonumber(ends), tonumber(kept), tonumber(count)
if not ends or ends <= now then
  redis.call('DEL', KEYS[1])
  return 0
end
local gone, fields = {}, {}
for i, user in ipairs(users) do
  if known[i + 1] then
    local left = bit.band(known[i + 1], bit.bnot(ARGV[4 + 2 * i]))
    if left == 0 then
      gone[#gone + 1] = user
    else
      fields[#fields + 1] = user
      fields[#fields + 1] = left
    end
  end
end
count = count - #gone
if count <= 0 then
  redis.call('DEL', KEYS[1])
  return 0
end
if #gone > 0 then
  redis.call('HDEL', KEYS[1], unpack(gone))
end
local is_due = kept > keep or kept < keep - tonumber(ARGV[4])
if is_due then
  kept = keep
end
fields[#fields + 1] = 'until'
fields[#fields + 1] = string.format('%s%%%.0f%%%.0f', ARGV[2], kept, count)
redis.call('HSET', KEYS[1], unpack(fields))
if is_due then
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
return count
