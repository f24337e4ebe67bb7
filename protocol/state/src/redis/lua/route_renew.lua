-- Renews the routes of devices that still stand. 1 if one was renewed, 0 if it does not stand.
local values = redis.call('MGET', unpack(KEYS))
local renewed = {}
for i = 1, #ARGV, OF_ONE do
  local at = tonumber(ARGV[i])
  local lines = read(values[at], tonumber(ARGV[i + 3]))
  local stands = 0
  for _, line in ipairs(lines) do
    if line.device == ARGV[i + 1] and line.standing == ARGV[i + 2] then
      line.ends, stands = ARGV[i + 4], 1
    end
  end
  answers[#answers + 1] = stands
  if stands == 1 then
    values[at] = text(lines)
    local _, last = read(values[at], 0)
    renewed[at] = { lines = lines, last = last, ends = ARGV[i + 4], life = tonumber(ARGV[i + 5]) }
  end
end
for at, route in pairs(renewed) do
  write(KEYS[at], route.lines, route.last, route.ends, route.life)
end
return answers
