-- What nodes say of themselves. KEYS: the nodes. The fields of each; none of one that is gone, or was spoilt and is yet to write itself anew.
local nodes = {}
for i, key in ipairs(KEYS) do
  local fields = redis.pcall('HGETALL', key)
  nodes[i] = fields.err and {} or fields
end
return nodes
