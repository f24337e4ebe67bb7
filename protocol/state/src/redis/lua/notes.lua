-- What every script of a room's log or an inbox begins with: the notes beside the stream, and the trimming.
-- KEYS: the stream, the notes, and more. ARGV: now, most entries, most bytes, most age in ms, and more.
-- The notes: `until%last%trimmed%entries%bytes%oldest`: when all is forgotten, the newest id there ever was (of an entry or a fence), the
-- newest that was trimmed (or nothing), how many entries there are with how many bytes of bodies, and when the oldest came (or an earlier
-- time).
-- An entry: `at`, `body`, and one field more.
local now, entries_max, bytes_max, age_max = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local known = redis.call('GET', KEYS[2])

local function read_notes()
  if not known then
    return nil
  end
  local ends, last, trimmed, entries, bytes, oldest = string.match(known, '^(%d+)%%(%d+%-%d+)%%([%d%-]*)%%(%d+)%%(%d+)%%(%d+)$')
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

-- Claims stand in the hash KEYS[3], `name` -> `until%id`, those made before them in KEYS[4]. When all of these have ended, by the time
-- of the callers, the first takes their place. Redis' own expiry is too rough for what decides: its clock may jump.
-- In the first, as `%`: when the last of KEYS[4] ends, when the last of its own does, and until when Redis keeps it for sure.
local CLAIMS = '%'
-- Clocks that differ, and times that were taken a while ago.
local CLAIMS_MARGIN = 60000
-- What Redis' clock may jump by.
local JUMP = 7200000

-- The ids of those of some claims that stand, by name; and what is known of the hashes.
local function standing(names)
  local own = redis.call('HMGET', KEYS[3], CLAIMS, unpack(names))
  local before = redis.call('HMGET', KEYS[4], unpack(names))
  local ids = {}
  for i, name in ipairs(names) do
    for _, claim in ipairs({ own[i + 1] or '', before[i] or '' }) do
      local ends, id = string.match(claim, '^(%d+)%%(.+)$')
      if ends and tonumber(ends) > now then
        ids[name] = id
      end
    end
  end
  local before_ends, own_ends, kept = string.match(own[1] or '', '^(%d+)%%(%d+)%%(%d+)$')
  return ids, { before = tonumber(before_ends) or 0, own = tonumber(own_ends) or 0, kept = tonumber(kept) or 0 }
end

-- Writes claims: names and values in turn. `ends` and `life` are those of the one that ends last.
local function claim(fields, hashes, ends, life)
  if hashes.own > 0 and now >= hashes.before + CLAIMS_MARGIN then
    redis.call('RENAME', KEYS[3], KEYS[4])
    hashes = { before = hashes.own, own = 0, kept = 0 }
  end
  if hashes.before == 0 then
    -- As if there were some that end with this one: nothing is moved that was just begun.
    hashes.before = ends
  end
  hashes.own = math.max(hashes.own, ends)
  local is_kept = ends <= hashes.kept
  if not is_kept then
    -- Twice as long as the claim asks for, so that the next ones need not ask again.
    hashes.kept = now + 2 * life - JUMP
  end
  fields[#fields + 1] = CLAIMS
  fields[#fields + 1] = string.format('%.0f%%%.0f%%%.0f', hashes.before, hashes.own, hashes.kept)
  redis.call('HSET', KEYS[3], unpack(fields))
  if not is_kept then
    redis.call('PEXPIRE', KEYS[3], string.format('%.0f', 2 * life))
  end
end
