-- Binds a device. KEYS: the user's routes. ARGV: device, `node%session%epoch%`, now, until, life in ms, field of whom it displaced, until
-- when that is told, of how many.
-- The values that it displaced, the oldest first. What has run out goes, so that the hash holds no more than a user's devices.
local now, ends_last = tonumber(ARGV[3]), tonumber(ARGV[4])
local bound = redis.call('HGETALL', KEYS[1])
local before, displaced = false, ''
for i = 1, #bound, 2 do
  if bound[i] == ARGV[1] then
    before = bound[i + 1]
  elseif bound[i] == ARGV[6] then
    displaced = bound[i + 1]
  else
    local ends = tonumber(string.match(bound[i + 1], '%%(%d+)$'))
    if not ends or ends <= now then
      redis.call('HDEL', KEYS[1], bound[i])
    elseif ends > ends_last then
      ends_last = ends
    end
  end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ARGV[4])
-- The key lives as long as the longest of them, which need not be this one.
redis.call('PEXPIRE', KEYS[1], ends_last - tonumber(ARGV[4]) + ARGV[5])

-- Whom it displaced, behind those whom the binds before it did: one of their answers may have been lost.
local replaced, ends = string.match(before or '', '^(.*%%)(%d+)$')
if not replaced or replaced == ARGV[2] or tonumber(ends) <= now then
  replaced = false
end
local told = {}
for value in string.gmatch(displaced, '[^\n]+') do
  local standing, until_ms = string.match(value, '^(.*%%)(%d+)$')
  if standing and standing ~= ARGV[2] and standing ~= replaced and tonumber(until_ms) > now then
    told[#told + 1] = value
  end
end
if replaced then
  told[#told + 1] = replaced .. ARGV[7]
  if #told > tonumber(ARGV[8]) then
    table.remove(told, 1)
  end
  redis.call('HSET', KEYS[1], ARGV[6], table.concat(told, '\n'))
end
return told
