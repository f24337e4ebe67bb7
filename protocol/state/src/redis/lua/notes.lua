-- What every script of a room's log or an inbox begins with: the notes beside the stream, and the trimming.
-- KEYS: the stream, the notes, and more. ARGV: now, most entries, most bytes, most age in ms, and more.
-- The notes: `until%last%trimmed%entries%bytes%oldest`: when all is forgotten, the newest id there ever was (of an entry or a fence), the
-- newest that was trimmed (or nothing), how many entries there are with how many bytes of bodies, and when the oldest came (or an earlier
-- time).
-- An entry: `at`, `body`, and one field more.
local now, entries_max, bytes_max, age_max = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
-- The notes, then the values of the other keys.
local known = redis.call('MGET', unpack(KEYS, 2))

local function read_notes()
  if not known[1] then
    return nil
  end
  local ends, last, trimmed, entries, bytes, oldest = string.match(known[1], '^(%d+)%%(%d+%-%d+)%%([%d%-]*)%%(%d+)%%(%d+)%%(%d+)$')
  if not ends or tonumber(ends) <= now then
    return nil
  end
  return {
    ends = ends, last = last, trimmed = trimmed,
    entries = tonumber(entries), bytes = tonumber(bytes), oldest = tonumber(oldest),
  }
end

-- `nil` where nothing is known, or no more.
local notes = read_notes()

local function write_notes(...)
  local text = string.format(
    '%s%%%s%%%s%%%d%%%d%%%.0f', notes.ends, notes.last, notes.trimmed, notes.entries, notes.bytes, notes.oldest)
  redis.call('SET', KEYS[2], text, ...)
end

-- Notes to begin with. A stream without notes is one that was forgotten.
local function begin()
  redis.call('DEL', KEYS[1])
  notes = { ends = '0', last = '0-0', trimmed = '', entries = 0, bytes = 0, oldest = now }
end

-- Ids `a-b` are compared as text, part by part: numbers of 64 bits are too large for Lua's.
local function is_above(a, b)
  return #a > #b or (#a == #b and a > b)
end

local function is_after(a, b)
  local a1, a2 = string.match(a, '^(%d+)%-(%d+)$')
  local b1, b2 = string.match(b, '^(%d+)%-(%d+)$')
  if a1 == b1 then
    return is_above(a2, b2)
  end
  return is_above(a1, b1)
end

local function add(id, body, field, value)
  redis.call('XADD', KEYS[1], id, 'at', ARGV[1], 'body', body, field, value)
  if notes.entries == 0 then
    notes.oldest = now
  end
  notes.last = id
  notes.entries = notes.entries + 1
  notes.bytes = notes.bytes + #body
end

local function is_too_much(oldest)
  return notes.entries > entries_max or notes.bytes > bytes_max or now - oldest >= age_max
end

-- Takes away from the front what is too much. Whether there was any; the notes are then to be written.
local function trim()
  if notes.entries == 0 or not is_too_much(notes.oldest) then
    return false
  end
  local kept
  local from, step = '-', math.max(notes.entries - entries_max, 1) + 1
  repeat
    local front = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', step)
    local is_all = #front < step
    for _, entry in ipairs(front) do
      notes.oldest = tonumber(entry[2][2])
      if not is_too_much(notes.oldest) then
        kept = entry[1]
        break
      end
      notes.trimmed = entry[1]
      notes.entries = notes.entries - 1
      notes.bytes = notes.bytes - #entry[2][4]
      from = '(' .. entry[1]
    end
    step = step * 2
  until kept or is_all
  if kept then
    redis.call('XTRIM', KEYS[1], 'MINID', kept)
  else
    redis.call('DEL', KEYS[1])
    notes.entries, notes.bytes = 0, 0
  end
  return true
end

-- A claim `until%id`: the id, if it stands.
local function standing(claim)
  local ends, id = string.match(claim or '', '^(%d+)%%(.+)$')
  return ends and tonumber(ends) > now and id
end
