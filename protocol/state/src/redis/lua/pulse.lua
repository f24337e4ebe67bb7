-- One pulse of one process: what time it is, and its vote on whether the clock of this server has jumped.
-- KEYS: the hash. ARGV: its name, its clock now, by how much its clock was ahead when it last read this one (`?` where it does not know,
-- `new` where it only follows), under which `born%moves` it read that, `born` of a hash that is not there, and the count at which it first
-- read the deviation that it has now (`-` where it has none).
-- This server's time, by how much the time of all is ahead of it, how often that was moved, `born`; all in ms and as text. Then 1 where
-- who has no clock of its own to go by had better wait: a vote may be under way. The count. And what the others say of a process that deviates:
-- 1 they agree with the time as it is, 2 all have said something, and not enough the same as it, 0 nothing that decides.
--
-- The hash: `born`, drawn once; `offset`; `moves`; `count` of pulses with a vote; `slew`, the count at which the offset next nears 0; and for each
-- voter `p:{name}` -> `count%ahead%moves%at` of its last pulse, which was `at` so much by the time of all, 0 if its clock denied that. Who is new
-- has no vote, and takes that of its former life away.
-- Nobody is judged by a time, for time is what is in doubt.

-- A difference that is no drift.
local APART = 500
-- Votes that mean one thing; what a reading may err by, and drift.
local ALIKE = 300
-- A vote that is not true any more: the clock has come back, or the pulse was held up.
local STALE = 400
-- What the offset nears 0 by, once for each process and pulse: 20 ms in a second.
local SLEW = 40
-- So long ago, or to come, nobody can have pulsed who lives.
local LATE, EARLY = 10000, 500
-- Processes that are noted. Those beyond are told the time and have no vote.
local MOST = 256

-- Pulses of each voter without one of its own after which it is gone. They pulse every 2 s, or in doubt every second.
local MISSED = 3

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

local stored = redis.pcall('HGETALL', KEYS[1])
if stored.err then
  -- A key of another type is none of ours.
  redis.call('DEL', KEYS[1])
  stored = {}
end
local known, others = {}, {}
for i = 1, #stored, 2 do
  local process = string.match(stored[i], '^p:(.+)$')
  if not process then
    known[stored[i]] = stored[i + 1]
  elseif process ~= ARGV[1] then
    local seen, ahead, moves, at = string.match(stored[i + 1], '^(%d+)%%([%-%d%?]+)%%(%d+)%%(%d+)$')
    others[#others + 1] = {
      field = stored[i], seen = tonumber(seen) or 0, ahead = ahead, moves = tonumber(moves), at = tonumber(at) or 0,
    }
  end
end
local born = known.born or ARGV[5]
local offset, moves, count = tonumber(known.offset) or 0, tonumber(known.moves) or 0, tonumber(known.count) or 0
local is_new = ARGV[3] == 'new'
if not is_new then
  -- Those who only follow may come in crowds, and often; nobody's age is told by them.
  count = count + 1
end

-- Who lives: all pulse alike often, so the r-th youngest sign is about r pulses old. From the first that is much older on, they are gone.
table.sort(others, function(a, b)
  return a.seen > b.seen
end)
local living = 0
for i, other in ipairs(others) do
  if count - other.seen > MISSED * (i + 1) then
    break
  end
  living = i
end

local ahead = ARGV[3]
if not is_new and ARGV[4] ~= born .. '%' .. string.format('%.0f', moves) then
  -- Read before the last move, or from a hash that is gone.
  ahead = '?'
end
local mine = tonumber(ahead)
if mine and math.abs(mine) > APART and math.abs(tonumber(ARGV[2]) - now - offset - mine) <= STALE then
  local alike, sum = 1, mine
  for i = 1, living do
    local other = others[i]
    local theirs = other.moves == moves and tonumber(other.ahead)
    if theirs and math.abs(theirs) > APART and math.abs(theirs - mine) <= ALIKE then
      alike, sum = alike + 1, sum + theirs
    end
  end
  if 2 * alike > living + 1 then
    -- Most are ahead by as much: it is this clock that jumped. The time of all goes on as if it had not.
    offset, moves, ahead = offset + math.floor(sum / alike + 0.5), moves + 1, '?'
  end
end

-- A deviation that has been the same since then is one from a clock that has not jumped since: those who pulsed since and agreed with it
-- agree with what it shows now. Whoever has not is no evidence; it counts as long as it lives.
local since, evidence = tonumber(ARGV[6]), 0
if since and mine then
  local agree, alike, told = 0, 1, 1
  for i = 1, living do
    local other = others[i]
    local theirs = tonumber(other.ahead)
    if other.seen > since and other.moves == moves then
      if other.at > 0 then
        agree, told = agree + 1, told + 1
      elseif theirs and math.abs(theirs) > APART then
        told = told + 1
        alike = math.abs(theirs - mine) <= ALIKE and alike + 1 or alike
      end
    end
  end
  if 2 * agree > living then
    evidence = 1
  elseif told > living and 2 * alike <= living + 1 then
    evidence = 2
  end
end

local fit = 0
for i = 1, living do
  local ago = now + offset - others[i].at
  fit = ago <= LATE and ago >= -EARLY and fit + 1 or fit
end
local doubt = living > 0 and 2 * fit <= living and 1 or 0

local slew = tonumber(known.slew) or 0
if count >= slew then
  offset = offset > 0 and math.max(offset - SLEW, 0) or math.min(offset + SLEW, 0)
  slew = count + living + 1
end

local fields = {
  'born', born, 'offset', string.format('%.0f', offset), 'moves', string.format('%.0f', moves),
  'count', string.format('%.0f', count), 'slew', string.format('%.0f', slew),
}
local gone = {}
if is_new then
  gone[1] = 'p:' .. ARGV[1]
elseif living < MOST then
  fields[#fields + 1] = 'p:' .. ARGV[1]
  local at = math.abs(tonumber(ARGV[2]) - now - offset) <= APART and now + offset or 0
  fields[#fields + 1] = string.format('%.0f%%%s%%%.0f%%%.0f', count, ahead, moves, at)
end
redis.call('HSET', KEYS[1], unpack(fields))
for i = living + 1, math.min(#others, living + MOST) do
  gone[#gone + 1] = others[i].field
end
if #gone > 0 then
  redis.call('HDEL', KEYS[1], unpack(gone))
end
return {
  string.format('%.0f', now), string.format('%.0f', offset), string.format('%.0f', moves), born, doubt, string.format('%.0f', count), evidence,
}
