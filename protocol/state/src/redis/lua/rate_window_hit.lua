-- Counts one use. KEYS: the window. ARGV: limit, now, end of a window that begins now, life in ms.
-- -1 if it is allowed, or in how many ms there is room again.
local limit, now, fresh_end = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
if limit == 0 then
  return fresh_end - now
end
local used, ends
local window = redis.call('GET', KEYS[1])
if window then
  used, ends = string.match(window, '^(%d+)%%(%d+)$')
  used, ends = tonumber(used), tonumber(ends)
end
-- Where the clock was set back, a window must not stay shut for longer than it is.
if ends and now < ends and ends <= fresh_end then
  if used >= limit then
    return ends - now
  end
  redis.call('SET', KEYS[1], (used + 1) .. '%' .. string.match(window, '%%(%d+)$'), 'KEEPTTL')
else
  redis.call('SET', KEYS[1], '1%' .. ARGV[3], 'PX', ARGV[4])
end
return -1
