-- Counts one use. KEYS: the window. ARGV: limit, now, end of a window that begins now, life in ms.
-- -1 if it is allowed, or in how many ms there is room again.
local limit, now, fresh_end, life = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
if limit == 0 then
  return fresh_end - now
end
-- Most uses begin a window: that is written at once, and what stood before is put back where it still counts.
local window = redis.call('SET', KEYS[1], '1%' .. ARGV[3], 'PX', ARGV[4], 'GET')
if not window then
  return -1
end
local used, ends_text = string.match(window, '^(%d+)%%(%d+)$')
local ends = tonumber(ends_text)
used = tonumber(used)
-- Where the clock was set back, a window must not stay shut for longer than it is.
if not ends or now >= ends or ends > fresh_end then
  return -1
end
local is_full = used >= limit
redis.call('SET', KEYS[1], (is_full and used or used + 1) .. '%' .. ends_text, 'PX', string.format('%.0f', life - (fresh_end - ends)))
return is_full and ends - now or -1
