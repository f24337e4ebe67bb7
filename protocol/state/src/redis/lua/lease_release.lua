-- Gives a lease up, if it is still this holder's. KEYS: the shard, and the one before it. ARGV: name, holder, epoch. See `lease_acquire.lua`.
for _, key in ipairs(KEYS) do
  local lease = redis.call('HGET', key, ARGV[1])
  if lease then
    local epoch, holder = string.match(lease, '^(%d+)%%%d+%%(.*)$')
    if epoch == ARGV[3] and holder == ARGV[2] then
      -- Where it was found: there its epoch is known for as long as it is to be.
      redis.call('HSET', key, ARGV[1], epoch .. '%0%')
    end
    break
  end
end
return redis.status_reply('OK')
