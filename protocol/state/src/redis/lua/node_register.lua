-- Registers or renews a node. KEYS: the nodes of its kind.
-- ARGV: id, now, until, life of the key in ms, by how much less than that it may live, most nodes of a kind, incarnation, what it says of itself.
-- 1 if it stands now, 0 if a later life of it is live, -1 if there are too many nodes.
-- A key of another type was spoilt by somebody: it goes, and is written anew, for no node can do without.
--
-- A node is `incarnation until kept`, a line each, and what it says. `kept` is until when the key lives at least, as this node knows: what is
-- to be done for the key as a whole is done when that is to be renewed, and by whoever is not there yet.
local now, keep, less = tonumber(ARGV[2]), tonumber(ARGV[2]) + tonumber(ARGV[4]), tonumber(ARGV[5])
local function read(node)
  local incarnation, ends, kept = string.match(node, '^(%d+)\n(%d+)\n(%d+)\n')
  return incarnation, tonumber(ends), tonumber(kept)
end
-- Incarnations may be too large for Lua's numbers: compared as text, the longer one is the larger.
local function is_later(a, b)
  return #a > #b or (#a == #b and a > b)
end
local said = redis.pcall('HGET', KEYS[1], ARGV[1])
if type(said) == 'table' and said.err then
  if not string.find(said.err, 'WRONGTYPE', 1, true) then
    return said
  end
  redis.call('DEL', KEYS[1])
  said = false
end
local known, ends, kept
if said then
  known, ends, kept = read(said)
end
local is_live = known and ends > now
if is_live and is_later(known, ARGV[7]) then
  return 0
end
local is_first = not is_live or kept > keep or kept < keep - less
if is_first then
  local nodes, others, gone = redis.call('HGETALL', KEYS[1]), 0, {}
  for i = 1, #nodes, 2 do
    if nodes[i] ~= ARGV[1] then
      local incarnation, others_end = read(nodes[i + 1])
      if incarnation and others_end > now then
        others = others + 1
      else
        gone[#gone + 1] = nodes[i]
      end
    end
  end
  for i = 1, #gone, 1000 do
    redis.call('HDEL', KEYS[1], unpack(gone, i, math.min(i + 999, #gone)))
  end
  if others >= tonumber(ARGV[6]) then
    return -1
  end
  kept = keep
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[7] .. '\n' .. ARGV[3] .. '\n' .. string.format('%.0f', kept) .. '\n' .. ARGV[8])
if is_first and redis.call('PTTL', KEYS[1]) < tonumber(ARGV[4]) then
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
end
return 1
