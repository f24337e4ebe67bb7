-- The loop around inbox_ack, a function of its KEYS and ARGV here. KEYS: of each inbox two. ARGV: as there until the ids; then of each inbox how
-- many, and they.
-- How many there were.
local acked, arg = 0, 4
for i = 1, #KEYS, 2 do
  local of_one = { ARGV[1], ARGV[2], ARGV[3] }
  for id = arg + 1, arg + tonumber(ARGV[arg]) do
    of_one[#of_one + 1] = ARGV[id]
  end
  arg = arg + 1 + tonumber(ARGV[arg])
  acked = acked + ack({ KEYS[i], KEYS[i + 1] }, of_one)
end
return acked
