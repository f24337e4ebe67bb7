-- Puts a session into its user's list. KEYS: the list. ARGV: now, print, its end, how many a user may have, and for how long the list is kept
-- past its last end, in ms. Names those beyond, the one that ends soonest first: they stay in the list until they have ended.
local now, longest = tonumber(ARGV[1]), tonumber(ARGV[3])
local listed = redis.call('HGETALL', KEYS[1])
local live, ended = {}, {}
for i = 1, #listed, 2 do
  local print, ends = listed[i], tonumber(listed[i + 1])
  if print ~= ARGV[2] then
    if ends and now < ends then
      live[#live + 1] = { print, ends }
      longest = math.max(longest, ends)
    else
      ended[#ended + 1] = print
    end
  end
end
if #ended > 0 then
  redis.call('HDEL', KEYS[1], unpack(ended))
end
redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', math.max(longest - now, 0) + tonumber(ARGV[5])))
table.sort(live, function(one, other)
  if one[2] ~= other[2] then
    return one[2] < other[2]
  end
  return one[1] < other[1]
end)
local over = {}
for i = 1, #live + 1 - tonumber(ARGV[4]) do
  over[i] = live[i][1]
end
return over
