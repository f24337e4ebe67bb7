-- The loop around inbox_append, a function of its KEYS and ARGV here. KEYS: of each message those of its inbox and its claims, four. ARGV: now,
-- most entries, most bytes, most age in ms, until, life in ms; and of each message five: id asked for, body, name of its claim (or nothing),
-- its end, its life in ms. The answers of inbox_append.
local call, match, find = redis.call, string.match, string.find
local now, entries_max, bytes_max, age_max = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local at, ends, life = ARGV[1], ARGV[5], ARGV[6]

-- What nearly every message is: one with a claim that is new, to an inbox that is known, with an id after its last, and nothing to be trimmed
-- or moved. Then it is written as inbox_append would. `false` where it is anything else: then nothing was done.
local function add(stream, notes, claims, claims_before, id, body, name, claim_ends)
  local known = call('GET', notes)
  if not known then
    return false
  end
  local own = call('HMGET', claims, '%', name)
  if not own[1] or own[2] or call('HGET', claims_before, name) then
    return false
  end
  local notes_end, last, trimmed, entries, bytes, oldest = match(known, '^(%d+)%%(%d+%-%d+)(%%[%d%-]*%%)(%d+)%%(%d+)(%%%d+)$')
  local before_ends, own_ends, kept = match(own[1], '^(%d+)%%(%d+)%%(%d+)$')
  -- Of one length, with the dash in one place, ids are in the order of their texts.
  if not notes_end or tonumber(notes_end) <= now or #id ~= #last or id <= last or find(id, '-', 1, true) ~= find(last, '-', 1, true) then
    return false
  end
  -- 60000: CLAIMS_MARGIN of notes.lua.
  if not kept or tonumber(claim_ends) > tonumber(kept) or now >= tonumber(before_ends) + 60000 then
    return false
  end
  entries, bytes = entries + 1, bytes + #body
  if entries == 1 then
    oldest = '%' .. at
  elseif now - tonumber(string.sub(oldest, 2)) >= age_max then
    return false
  end
  if entries > entries_max or bytes > bytes_max then
    return false
  end
  call('XADD', stream, id, 'at', at, 'body', body, 'asked', id)
  call('SET', notes, ends .. '%' .. id .. trimmed .. entries .. '%' .. bytes .. oldest, 'PX', life)
  call('PEXPIRE', stream, life)
  if tonumber(claim_ends) > tonumber(own_ends) then
    own_ends = claim_ends
  end
  call('HSET', claims, name, claim_ends .. '%' .. id, '%', before_ends .. '%' .. own_ends .. '%' .. kept)
  return true
end

local appended = {}
for i = 1, #KEYS / 4 do
  local key, arg = 4 * i - 4, 5 * i + 1
  local stream, notes, claims, claims_before = KEYS[key + 1], KEYS[key + 2], KEYS[key + 3], KEYS[key + 4]
  local id, body, name, claim_ends = ARGV[arg + 1], ARGV[arg + 2], ARGV[arg + 3], ARGV[arg + 4]
  if name ~= '' and add(stream, notes, claims, claims_before, id, body, name, claim_ends) then
    appended[i] = { id, 1, 0 }
  else
    local keys = name == '' and { stream, notes } or { stream, notes, claims, claims_before }
    appended[i] = append(keys, { at, ARGV[2], ARGV[3], ARGV[4], id, body, ends, life, name, claim_ends, ARGV[arg + 5] })
  end
end
return appended
