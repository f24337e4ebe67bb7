-- Binds devices. The `node%session%epoch%until` that was bound before, or nil. What has run out goes, so that the string holds no more
-- than a user's devices.

-- Most users have one device: its line is written at once, and those of others are put back where there are any. What is of another type
-- is written anew.
if #ARGV == OF_ONE then
  local line = ARGV[2] .. '%' .. ARGV[3] .. ARGV[5]
  local bound = redis.pcall('SET', KEYS[1], line, 'PX', ARGV[6], 'GET')
  if type(bound) == 'table' then
    redis.call('SET', KEYS[1], line, 'PX', ARGV[6])
    return { false }
  end
  local lines, last = read(bound, tonumber(ARGV[4]))
  local before = put(lines, ARGV[2], ARGV[3], ARGV[5])
  if #lines > 1 then
    write(KEYS[1], lines, last, ARGV[5], tonumber(ARGV[6]))
  end
  return { before }
end

local values = redis.call('MGET', unpack(KEYS))
local last_of = {}
for i = 1, #ARGV, OF_ONE do
  local at = tonumber(ARGV[i])
  local lines, last = read(values[at], tonumber(ARGV[i + 3]))
  answers[#answers + 1] = put(lines, ARGV[i + 1], ARGV[i + 2], ARGV[i + 4])
  values[at] = text(lines)
  last_of[at] = { lines = lines, last = last, ends = ARGV[i + 4], life = tonumber(ARGV[i + 5]) }
end
for at, bound in pairs(last_of) do
  write(KEYS[at], bound.lines, bound.last, bound.ends, bound.life)
end
return answers
