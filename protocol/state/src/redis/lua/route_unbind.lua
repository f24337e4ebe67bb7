-- Deletes the routes of devices that still stand. 1 if the user has another route then, 0 if none.
local values = redis.call('MGET', unpack(KEYS))
local changed = {}
for i = 1, #ARGV, OF_ONE do
  local at = tonumber(ARGV[i])
  local left, devices = {}, 0
  for _, line in ipairs(read(values[at], 0)) do
    if line.device == ARGV[i + 1] and line.standing == ARGV[i + 2] then
      changed[at] = true
    else
      left[#left + 1] = line
      devices = tonumber(line.device) < DISPLACED and devices + 1 or devices
    end
  end
  values[at] = text(left)
  answers[#answers + 1] = devices > 0 and 1 or 0
end
local gone = {}
for at in pairs(changed) do
  if values[at] == '' then
    gone[#gone + 1] = KEYS[at]
  else
    redis.call('SET', KEYS[at], values[at], 'KEEPTTL')
  end
end
if #gone > 0 then
  redis.call('DEL', unpack(gone))
end
return answers
