-- Removes users of one bucket who showed no sign of life after the moment given for each. KEYS: the bucket. ARGV: user and moment in turn.
local users = {}
for i = 1, #ARGV, 2 do
  users[#users + 1] = ARGV[i]
end
local gone = {}
for i, last in ipairs(redis.call('ZMSCORE', KEYS[1], unpack(users))) do
  if last and tonumber(last) <= tonumber(ARGV[2 * i]) then
    gone[#gone + 1] = users[i]
  end
end
if #gone > 0 then
  redis.call('ZREM', KEYS[1], unpack(gone))
end
return redis.status_reply('OK')
