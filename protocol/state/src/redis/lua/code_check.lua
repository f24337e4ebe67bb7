-- Compares a login code, and uses it up. KEYS: the phone's. ARGV: now, code, tries. -2 for the right one, -1 for a wrong one or none; when the
-- tries are spent, in how many ms there may be another code.
local now = tonumber(ARGV[1])
local kept = redis.call('GET', KEYS[1]) or ''
local code, until_text, again, rest, tries = string.match(kept, '^(%d+)%%(%d+)%%(%d+)%%(%d+%%%d+)%%(%d+)$')
if not code or now >= tonumber(until_text) then
  return -1
end
if tonumber(tries) >= tonumber(ARGV[3]) then
  return math.max(tonumber(again) - now, 0)
end
local is_right = code == ARGV[2]
local left = is_right and '' or code
local used = is_right and tonumber(tries) or tonumber(tries) + 1
redis.call('SET', KEYS[1], string.format('%s%%%s%%%s%%%s%%%d', left, until_text, again, rest, used), 'KEEPTTL')
return is_right and -2 or -1
