-- What the scripts on bars of PKs have in common. A bar is four strings: `until%challenger%since_seq`; the value, 0..100; the place of the
-- last gift; and, where the bar is at an end, who has won, `anchor` or `challenger`. KEYS: these. ARGV, but of `pk_clear.lua`: now, until,
-- life in ms, and more.
--
-- What somebody spoilt is no bar, and is written anew: a number that is none, a part that is missing, an end without a winner. What is of
-- another type is missing to MGET, and SET does not mind it.
local TOP = 100
-- Beyond, Lua's numbers are not exact, and none of ours is.
local NUMBER_MAX = 9007199254740991

local function number(text, max)
  local found = string.match(text or '', '^%d+$') and tonumber(text)
  return found and found <= max and found or nil
end

local function winner_at(value)
  return value == TOP and 'anchor' or value == 0 and 'challenger'
end

-- The bar, if it has not run out at `now`. A challenger is compared as text: ids may be too large for Lua's numbers.
local function read(now)
  local texts = redis.call('MGET', unpack(KEYS))
  local ends_text, challenger, since_text = string.match(texts[1] or '', '^(%d+)%%(%-?%d+)%%(%d+)$')
  local ends, since = number(ends_text, NUMBER_MAX), number(since_text, NUMBER_MAX)
  local value, seq, winner = number(texts[2], TOP), number(texts[3], NUMBER_MAX), texts[4]
  if not (ends and since and value and seq) or ends <= now or seq < since or #challenger > 20 or winner ~= winner_at(value) then
    return nil
  end
  return { texts = texts, challenger = challenger, since = since, value = value, seq = seq, winner = winner }
end

-- Writes a bar, with a new end, and gives it as it stands. Numbers come as text, `winner` is false where there is none.
local function write(challenger, since, value, seq, winner)
  local texts = { ARGV[2] .. '%' .. challenger .. '%' .. since, value, seq, winner }
  for i, text in ipairs(texts) do
    if text then
      redis.call('SET', KEYS[i], text, 'PX', ARGV[3])
    end
  end
  return texts
end
