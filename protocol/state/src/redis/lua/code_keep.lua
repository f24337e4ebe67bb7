-- Keeps a login code. KEYS: the phone's. ARGV: now, code, its end, when there may be another, codes in a window, end of a window that begins
-- now, and for how long it is kept past its last end, in ms. 0 when it is kept, or in how many ms there may be another.
local now, again, fresh_end = tonumber(ARGV[1]), tonumber(ARGV[4]), tonumber(ARGV[6])
local sends, window_ends = 0, fresh_end
local kept = redis.call('GET', KEYS[1]) or ''
local code, until_text, again_text, sends_text, ends_text = string.match(kept, '^(%d*)%%(%d+)%%(%d+)%%(%d+)%%(%d+)%%%d+$')
if code then
  if code == ARGV[2] and until_text == ARGV[3] and again_text == ARGV[4] then
    return 0
  end
  -- Where the clock was set back, nobody waits for longer than it takes.
  local again_before, ends_before = tonumber(again_text), tonumber(ends_text)
  if now < again_before and again_before <= again then
    return again_before - now
  end
  if now < ends_before and ends_before <= fresh_end then
    if tonumber(sends_text) >= tonumber(ARGV[5]) then
      return ends_before - now
    end
    sends, window_ends = tonumber(sends_text), ends_before
  end
end
local value = string.format('%s%%%s%%%s%%%d%%%.0f%%0', ARGV[2], ARGV[3], ARGV[4], sends + 1, window_ends)
local life = math.max(window_ends, again, tonumber(ARGV[3])) - now + tonumber(ARGV[7])
redis.call('SET', KEYS[1], value, 'PX', string.format('%.0f', life))
return 0
