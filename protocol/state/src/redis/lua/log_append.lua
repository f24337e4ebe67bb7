-- Appends to a room's log. KEYS from 3: a claim for each entry that has one. ARGV from 5: until, life in ms, and for each entry: id,
-- user it is not pushed to (or nothing), body, end of its claim (nothing where it has none), life of its claim in ms.
-- For each entry: `stored`, `stale`, or the id under which it was taken before.
if not notes then
  begin()
end
local verdicts, taken, claims = {}, {}, 0
for i = 7, #ARGV, 5 do
  local id, except, body, claim_ends = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local claim, first
  if claim_ends ~= '' then
    claims = claims + 1
    claim = KEYS[claims + 2]
    first = taken[claim] or standing(known[claims + 1])
  end
  local verdict = first
  if not first then
    verdict = is_after(id, notes.last) and 'stored' or 'stale'
  end
  if verdict == 'stored' then
    add(id, body, 'except', except)
    if claim then
      redis.call('SET', claim, claim_ends .. '%' .. id, 'PX', ARGV[i + 4])
      taken[claim] = tonumber(claim_ends) > now and id
    end
  end
  verdicts[#verdicts + 1] = verdict
end
trim()
notes.ends = ARGV[5]
write_notes('PX', ARGV[6])
if notes.entries > 0 then
  redis.call('PEXPIRE', KEYS[1], ARGV[6])
end
return verdicts
