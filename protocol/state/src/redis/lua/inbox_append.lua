-- Appends to an inbox. KEYS from 3: its claims, if the message has one. ARGV from 5: id asked for, body, until, life in ms, and with a
-- claim its name, its end and its life in ms.
-- The id, 1 where no claim stood, and how many entries gave way.
local hashes
if KEYS[3] then
  local ids
  ids, hashes = standing({ ARGV[9] })
  if ids[ARGV[9]] then
    return { ids[ARGV[9]], 0, 0 }
  end
end
local asked, body = ARGV[5], ARGV[6]
local given_way = 0
if not notes then
  begin()
end
local id
if is_after(asked, notes.last) then
  id = asked
else
  -- The same call as before, perhaps. Ids given are never below those asked for: entries below need not be looked at.
  for _, entry in ipairs(redis.call('XREVRANGE', KEYS[1], '+', asked)) do
    if entry[2][4] == body and entry[2][6] == asked then
      id = entry[1]
      break
    end
  end
  if id then
    asked = nil
  else
    local ms, n = string.match(notes.last, '^(%d+)%-(%d+)$')
    id = ms .. '-' .. string.format('%.0f', tonumber(n) + 1)
  end
end
if asked then
  add(id, body, 'asked', asked)
  local before = notes.entries
  trim()
  given_way = before - notes.entries
  notes.ends = ARGV[7]
  write_notes('PX', ARGV[8])
  if notes.entries > 0 then
    redis.call('PEXPIRE', KEYS[1], ARGV[8])
  end
end
if KEYS[3] then
  claim({ ARGV[9], ARGV[10] .. '%' .. id }, hashes, tonumber(ARGV[10]), tonumber(ARGV[11]))
end
return { id, 1, given_way }
