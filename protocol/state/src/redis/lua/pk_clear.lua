-- Ends the PK of a challenger. ARGV: challenger, which of their PKs. 1 if there was one to end, 0 if not.
-- Told no time, it ends one that has run out as well.
local bar = read(0)
if not bar or bar.challenger ~= ARGV[1] or bar.since ~= tonumber(ARGV[2]) then
  return 0
end
redis.call('DEL', unpack(KEYS))
return 1
