-- One user's pending ACKs. KEYS as in acks_record. ARGV: user.
-- Fields and values in turn.
local fields = redis.call('ZRANGEBYLEX', KEYS[3], '[' .. ARGV[1] .. ':', '(' .. ARGV[1] .. ';')
if #fields == 0 then
  return {}
end
local pending = {}
for i, value in ipairs(redis.call('HMGET', KEYS[1], unpack(fields))) do
  if value then
    pending[#pending + 1] = fields[i]
    pending[#pending + 1] = value
  end
end
return pending
