-- Appends to a room's log. KEYS from 3: its claims, if an entry has one. ARGV from 5: until, life in ms, and for each entry: id, user it
-- is not pushed to (or nothing), body, name of its claim (nothing where it has none), end of it, life of it in ms.
-- For each entry: `stored`, `stale`, or the id under which it was taken before.
if not notes then
  begin()
end
local names = {}
for i = 10, #ARGV, 6 do
  if ARGV[i] ~= '' then
    names[#names + 1] = ARGV[i]
  end
end
local taken, hashes = {}, nil
if #names > 0 then
  taken, hashes = standing(names)
end
local verdicts, claims, last_ends, longest = {}, {}, 0, 0
for i = 7, #ARGV, 6 do
  local id, except, body, name, claim_ends = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
  local verdict = name ~= '' and taken[name]
  if not verdict then
    verdict = is_after(id, notes.last) and 'stored' or 'stale'
  end
  if verdict == 'stored' then
    add(id, body, 'except', except)
    if name ~= '' then
      claims[#claims + 1] = name
      claims[#claims + 1] = claim_ends .. '%' .. id
      last_ends, longest = math.max(last_ends, tonumber(claim_ends)), math.max(longest, tonumber(ARGV[i + 5]))
      taken[name] = tonumber(claim_ends) > now and id
    end
  end
  verdicts[#verdicts + 1] = verdict
end
if #claims > 0 then
  claim(claims, hashes, last_ends, longest)
end
trim()
notes.ends = ARGV[5]
write_notes('PX', ARGV[6])
if notes.entries > 0 then
  redis.call('PEXPIRE', KEYS[1], ARGV[6])
end
return verdicts
