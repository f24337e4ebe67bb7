-- What the scripts on routes have in common. A user's routes are a string, a line `device%node%session%epoch%until` for each device; and
-- for each that the last binds of a device displaced, the oldest first, such a line under the number of the device and DISPLACED, with the time
-- until which it is told of.
--
-- KEYS: the users' routes, each once. ARGV: of each route eight: number of its key, device, `node%session%epoch%`, now, until, life in ms, for how
-- long whom it displaces is told of, and of how many. Answers in the order of the routes.
local OF_ONE = 8
-- No device, for a node that does not know of it either.
local DISPLACED = 100

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

-- Whom the binds of this device have displaced is told of in lines of this number.
local function displaced_of(device)
  return tostring(tonumber(device) + DISPLACED)
end

local answers = {}
