-- Counts uses. KEYS: the windows, each once. ARGV: of each use five: number of its window, limit, now, end of a window that begins now, life
-- in ms. For each use -1 if it is allowed, or in how many ms there is room again.
local OF_ONE = 5
local verdicts = {}

-- What a use makes of what stood before, how long that lives, and the verdict; no value where nothing is to be written.
local function count(window, limit, now, fresh_end_text, life)
  local fresh_end = tonumber(fresh_end_text)
  if limit == 0 then
    return nil, nil, fresh_end - now
  end
  local used, ends_text = string.match(window or '', '^(%d+)%%(%d+)$')
  local ends = tonumber(ends_text)
  used = tonumber(used)
  -- Where the clock was set back, a window must not stay shut for longer than it is.
  if not ends or now >= ends or ends > fresh_end then
    return '1%' .. fresh_end_text, life, -1
  end
  local is_full = used >= limit
  return (is_full and used or used + 1) .. '%' .. ends_text, life - (fresh_end - ends), is_full and ends - now or -1
end

local function write(key, value, life)
  redis.call('SET', key, value, 'PX', string.format('%.0f', life))
end

-- Most uses begin a window: that of one is written at once, and what stood before is put back where it still counts. What is of another
-- type is written anew.
if #ARGV == OF_ONE then
  if tonumber(ARGV[2]) == 0 then
    return { tonumber(ARGV[4]) - tonumber(ARGV[3]) }
  end
  local fresh = '1%' .. ARGV[4]
  local before = redis.pcall('SET', KEYS[1], fresh, 'PX', ARGV[5], 'GET')
  if type(before) == 'table' then
    write(KEYS[1], fresh, tonumber(ARGV[5]))
    before = false
  end
  local value, life, verdict = count(before, tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5]))
  if value ~= fresh then
    write(KEYS[1], value, life)
  end
  return { verdict }
end

local windows = redis.call('MGET', unpack(KEYS))
local lives = {}
for i = 1, #ARGV, OF_ONE do
  local at = tonumber(ARGV[i])
  local value, life, verdict = count(windows[at], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]), ARGV[i + 3], tonumber(ARGV[i + 4]))
  if value and value ~= windows[at] then
    windows[at], lives[at] = value, life
  end
  verdicts[#verdicts + 1] = verdict
end
for at, life in pairs(lives) do
  write(KEYS[at], windows[at], life)
end
return verdicts
