-- Puts users into a room. KEYS: the hash user -> devices, a bit each, and `until`. ARGV: now, until, life of the key in ms, by how much less
-- than that it may live, and for each user, once: id, devices.
-- How many users there are now.
--
-- `until` is `until%kept%users`: when all is forgotten, until when the key lives at least, and how many users there are.
local users = {}
for i = 5, #ARGV, 2 do
  users[#users + 1] = ARGV[i]
end
local known = redis.call('HMGET', KEYS[1], 'until', unpack(users))
local ends, kept, count = string.match(known[1] or '', '^(%d+)%%(%d+)%%(%d+)$')
local now, keep = tonumber(ARGV[1]), tonumber(ARGV[1]) + tonumber(ARGV[3])
ends, kept, count = tonumber(ends), tonumber(kept), tonumber(count) or 0
if known[1] and (not ends or ends <= now) then
  redis.call('DEL', KEYS[1])
  known, kept, count = {}, nil, 0
end
if #users > 0 then
  local fields = {}
  for i, user in ipairs(users) do
    local before = tonumber(known[i + 1] or 0)
    local after = bit.bor(before, ARGV[4 + 2 * i])
    if after ~= before then
      fields[#fields + 1] = user
      fields[#fields + 1] = after
      if not known[i + 1] then
        count = count + 1
      end
    end
  end
  local is_due = not kept or kept > keep or kept < keep - tonumber(ARGV[4])
  if is_due then
    kept = keep
  end
  fields[#fields + 1] = 'until'
  fields[#fields + 1] = string.format('%s%%%.0f%%%.0f', ARGV[2], kept, count)
  redis.call('HSET', KEYS[1], unpack(fields))
  if is_due then
    redis.call('PEXPIRE', KEYS[1], ARGV[3])
  end
end
return count
