-- What the scripts on routes have in common. A user's routes are a string, a line `device%node%session%epoch%until` for each device.
--
-- KEYS: the users' routes, each once. ARGV: of each route six: number of its key, device, `node%session%epoch%`, now, until, life in ms.
-- Answers in the order of the routes.
local OF_ONE = 6

-- The lines that have not run out at `now`, and the end of the last of them.
local function read(value, now)
  local lines, last = {}, 0
  for device, standing, ends_text in string.gmatch(value or '', '(%d+)%%([^\n]*%%)(%d+)') do
    local ends = tonumber(ends_text)
    if ends > now then
      lines[#lines + 1] = { device = device, standing = standing, ends = ends_text }
      last = math.max(last, ends)
    end
  end
  return lines, last
end

local function text(lines)
  local texts = {}
  for i, line in ipairs(lines) do
    texts[i] = line.device .. '%' .. line.standing .. line.ends
  end
  return table.concat(texts, '\n')
end

-- The string lives as long as the longest of its lines, which need not be the one of this route.
local function write(key, lines, last, until_ms, life)
  local more = math.max(0, last - tonumber(until_ms))
  redis.call('SET', key, text(lines), 'PX', string.format('%.0f', life + more))
end

-- Puts a line in place of the device's own; gives what that one said.
local function put(lines, device, standing, ends)
  for _, line in ipairs(lines) do
    if line.device == device then
      local before = line.standing .. line.ends
      line.standing, line.ends = standing, ends
      return before
    end
  end
  lines[#lines + 1] = { device = device, standing = standing, ends = ends }
  return false
end

local answers = {}
