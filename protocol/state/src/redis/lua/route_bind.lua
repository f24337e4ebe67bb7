-- Binds devices. Of each route the `node%session%epoch%until` that were displaced, the oldest first: what stood before, behind those whom the
-- binds before it displaced, for one of their answers may have been lost. What has run out goes, so that the string holds no more than a user's
-- devices and, of each, some that were displaced.

-- Puts a route's line in place of the device's own. ARGV from `i` on are the route's.
local function bind(lines, i)
  local device, standing, now = ARGV[i + 1], ARGV[i + 2], tonumber(ARGV[i + 3])
  local of_displaced = displaced_of(device)
  local own, replaced
  for _, line in ipairs(lines) do
    if line.device == device then
      own = line
      replaced = line.standing ~= standing and line.standing or nil
    end
  end
  -- What is told of moves behind the routes and keeps its order. A route that is bound again stays among those displaced where it displaces
  -- nobody: whoever displaces it next may have to hear of it.
  local others, displaced = {}, {}
  for _, line in ipairs(lines) do
    if line.device ~= of_displaced then
      others[#others + 1] = line
    elseif not replaced or line.standing ~= standing and line.standing ~= replaced then
      displaced[#displaced + 1] = line
    end
  end
  if replaced then
    displaced[#displaced + 1] = { device = of_displaced, standing = replaced, ends = string.format('%.0f', now + tonumber(ARGV[i + 6])) }
    if #displaced > tonumber(ARGV[i + 7]) then
      table.remove(displaced, 1)
    end
  end
  if own then
    own.standing, own.ends = standing, ARGV[i + 4]
  else
    others[#others + 1] = { device = device, standing = standing, ends = ARGV[i + 4] }
  end
  local answer = {}
  for _, line in ipairs(displaced) do
    others[#others + 1] = line
    if line.standing ~= standing then
      answer[#answer + 1] = line.standing .. line.ends
    end
  end
  return others, answer
end

-- Most users have one device: its line is written at once, and the others are put back where there are any. What is of another type is written
-- anew.
if #ARGV == OF_ONE then
  local line = ARGV[2] .. '%' .. ARGV[3] .. ARGV[5]
  local bound = redis.pcall('SET', KEYS[1], line, 'PX', ARGV[6], 'GET')
  if type(bound) == 'table' then
    redis.call('SET', KEYS[1], line, 'PX', ARGV[6])
    return { {} }
  end
  local lines, last = read(bound, tonumber(ARGV[4]))
  local displaced
  lines, displaced = bind(lines, 1)
  if #lines > 1 then
    write(KEYS[1], lines, last, ARGV[5], tonumber(ARGV[6]))
  end
  return { displaced }
end

local values = redis.call('MGET', unpack(KEYS))
local last_of = {}
for i = 1, #ARGV, OF_ONE do
  local at = tonumber(ARGV[i])
  local lines, last = read(values[at], tonumber(ARGV[i + 3]))
  lines, answers[#answers + 1] = bind(lines, i)
  values[at] = text(lines)
  last_of[at] = { lines = lines, last = last, ends = ARGV[i + 4], life = tonumber(ARGV[i + 5]) }
end
for at, bound in pairs(last_of) do
  write(KEYS[at], bound.lines, bound.last, bound.ends, bound.life)
end
return answers
