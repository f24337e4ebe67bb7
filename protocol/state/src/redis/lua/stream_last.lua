-- The newest entries of a room's log, newest first. ARGV[5]: at most how many.
if not notes then
  return {}
end
if trim() then
  write_notes('KEEPTTL')
end
return redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', ARGV[5])
