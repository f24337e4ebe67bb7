-- Takes or renews leases, all of one shard. KEYS: the shard, and the one before it. ARGV: now, until, until - now, least epoch of a name not
-- known, how long a name is known at least after its lease in ms, how long Redis is to keep it in ms, by how much less than that it may;
-- then name and holder in turn. What stands then, in the order asked: holder, epoch, until of each. Times and epochs stay text; the numbers
-- made of them are only compared.
--
-- A shard is a hash name -> `epoch%until%holder`. What is written goes to KEYS[1]; what is not found there is looked for in KEYS[2]. When the
-- names of KEYS[2] need not be known any more, by the time of the callers, KEYS[1] takes its place: whoever renews moves up again, and a
-- name that nobody asks for goes the second time. In KEYS[1], as `%`: when the last lease of KEYS[2] ends, when the last of its own does,
-- and until when Redis keeps it for sure.
local SHARD = '%'
-- What a clock that was right cannot have written: no lease of a room is asked for so long.
local FAR = 86400000
local now, asked, known = tonumber(ARGV[1]), tonumber(ARGV[3]), tonumber(ARGV[5])

local names, holders = {}, {}
for i = 8, #ARGV, 2 do
  names[#names + 1] = ARGV[i]
  holders[#holders + 1] = ARGV[i + 1]
end

-- What stands behind these names. A key that is no hash has no lease that could stand. Left as it is, its rooms would have no owner for ever.
local function read(key, ...)
  local found = redis.pcall('HMGET', key, ...)
  if not found.err then
    return found
  elseif string.find(found.err, 'WRONGTYPE', 1, true) then
    redis.call('DEL', key)
    return {}
  end
  return redis.call('HMGET', key, ...)
end

local leases = {}
-- Whether it can be read: what cannot is as good as not there. An epoch beyond is none of ours, and could not be raised exactly.
local function note(name, value)
  local epoch, ends, holder = string.match(value or '', '^(%d+)%%(%d+)%%(.*)$')
  if not epoch or #epoch > 15 then
    return false
  end
  leases[name] = { epoch = epoch, ends = ends, holder = holder }
  return true
end

local own, missing = read(KEYS[1], SHARD, unpack(names)), {}
for i, name in ipairs(names) do
  if not note(name, own[i + 1]) then
    missing[#missing + 1] = name
  end
end
if #missing > 0 then
  local before = read(KEYS[2], unpack(missing))
  for i, name in ipairs(missing) do
    note(name, before[i])
  end
end

local written, order = {}, {}
local told = {}
for i, name in ipairs(names) do
  local lease = leases[name]
  -- One that would stand far longer than is asked for was taken by a clock that has been set back since.
  local stands = lease and lease.holder ~= '' and tonumber(lease.ends) > now and tonumber(lease.ends) <= now + 10 * asked
  if not stands or lease.holder == holders[i] then
    local epoch = ARGV[4]
    if stands then
      epoch = lease.epoch
    elseif lease then
      epoch = string.format('%.0f', tonumber(lease.epoch) + 1)
    end
    lease = { epoch = epoch, ends = ARGV[2], holder = holders[i] }
    -- The next of the same name in this call finds it so.
    leases[name] = lease
    if not written[name] then
      written[name] = true
      order[#order + 1] = name
    end
  end
  told[i] = { lease.holder, lease.epoch, lease.ends }
end
if #order == 0 then
  return told
end

local before_ends, own_ends, kept = string.match(own[1] or '', '^(%d+)%%(%d+)%%(%d+)$')
before_ends, own_ends, kept = tonumber(before_ends), tonumber(own_ends) or 0, tonumber(kept) or 0
local ends, far = tonumber(ARGV[2]), now + math.max(10 * asked, FAR)
if own_ends > far then
  own_ends = ends
end
if not before_ends or before_ends > far then
  -- As if there were some that end with this one: nothing is moved that was just begun.
  before_ends = ends
elseif own_ends > 0 and now >= before_ends + known then
  -- Of names there may be many: that they are freed must not keep others waiting.
  redis.call('UNLINK', KEYS[2])
  redis.call('RENAME', KEYS[1], KEYS[2])
  before_ends, own_ends, kept = own_ends, 0, 0
end
own_ends = math.max(own_ends, ends)
local keep = now + tonumber(ARGV[6])
local is_kept = kept <= keep and kept >= keep - tonumber(ARGV[7])
if not is_kept then
  kept = keep
end
local fields = { SHARD, string.format('%.0f%%%.0f%%%.0f', before_ends, own_ends, kept) }
for _, name in ipairs(order) do
  local lease = leases[name]
  fields[#fields + 1] = name
  fields[#fields + 1] = lease.epoch .. '%' .. lease.ends .. '%' .. lease.holder
end
redis.call('HSET', KEYS[1], unpack(fields))
if not is_kept then
  redis.call('PEXPIRE', KEYS[1], ARGV[6])
end
return told
