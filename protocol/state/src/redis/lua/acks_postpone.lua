-- Puts off pending ACKs of one shard that were due some time ago; takes out those that were sent often enough. KEYS as in acks_record.
-- ARGV: before when, at most how many, now, most times, first wait (doubled for each time sent), longest wait, wait of those of a room.
-- Fields and values in turn, as they stood.
local fields = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', '(' .. ARGV[1], 'LIMIT', 0, ARGV[2])
if #fields == 0 then
  return {}
end
local now, most = tonumber(ARGV[3]), tonumber(ARGV[4])
local first, longest, of_room = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local overdue, gone, values, due = {}, {}, {}, {}
for i, value in ipairs(redis.call('HMGET', KEYS[1], unpack(fields))) do
  local field = fields[i]
  local times, room = string.match(value or '', '^(%d+)%%%d+%%(-?%d*)$')
  times = tonumber(times)
  if times then
    overdue[#overdue + 1] = field
    overdue[#overdue + 1] = value
  end
  if times and times < most then
    local again
    if room == '' then
      again = now + math.min(first * 2 ^ math.min(times, 16), longest)
      times = times + 1
    else
      again = now + of_room
      times = most
    end
    again = string.format('%.0f', again)
    values[#values + 1] = field
    values[#values + 1] = string.format('%.0f', times) .. '%' .. again .. '%' .. room
    due[#due + 1] = again
    due[#due + 1] = field
  else
    gone[#gone + 1] = field
  end
end
if #values > 0 then
  redis.call('HSET', KEYS[1], unpack(values))
  redis.call('ZADD', KEYS[2], unpack(due))
end
if #gone > 0 then
  redis.call('HDEL', KEYS[1], unpack(gone))
  redis.call('ZREM', KEYS[2], unpack(gone))
  redis.call('ZREM', KEYS[3], unpack(gone))
end
return overdue
