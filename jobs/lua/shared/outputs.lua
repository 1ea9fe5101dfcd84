-- Large outputs, and how many bytes of outputs are kept (`with outputs`).
-- An output above a chunk lies in `:output:<id>:<attempt>:<number>`. Counted are large outputs, and all of a tenant with
-- a quota of bytes. `:kept_outputs` gathers those of a tenant that expire at about the same time.
local kept_changes = {}  -- member of `:kept_outputs` → change of its bytes

local function chunk_key(id, attempt, number) return root .. ':output:' .. id .. ':' .. attempt .. ':' .. number end

-- Return whether all chunks of an output exist.
local function has_chunks(id, attempt, chunks)
  for number = 0, chunks - 1 do
    if redis.call('EXISTS', chunk_key(id, attempt, int_text(number))) == 0 then return false end
  end
  return true
end

local function drop_chunks(id, attempt, chunks)
  for number = 0, chunks - 1 do redis.call('UNLINK', chunk_key(id, attempt, int_text(number))) end
end

local function expire_chunks(id, attempt, chunks, ttl_ms)
  for number = 0, chunks - 1 do redis.call('PEXPIRE', chunk_key(id, attempt, int_text(number)), int_text(ttl_ms)) end
end

-- Count a tenant's output for its lifetime. Return the member that counts it. Outputs are grouped by 64ths of the time.
local function keep_output(tenant, bytes, ttl_ms)
  local width = math.max(1, math.ceil(ttl_ms / 64))
  local member = int_text(math.ceil((now_ms + ttl_ms) / width) * width) .. ' ' .. tenant
  kept_changes[member] = (kept_changes[member] or 0) + bytes
  return member
end

-- Write what keep_output gathered, or forget a member's bytes where `change` is negative.
local function change_kept(member, change)
  local ms, tenant = string.match(member, '^(%d+) (.*)$')
  for _, field in ipairs({'outputs', '@' .. tenant .. ':outputs'}) do
    if redis.call('HINCRBY', root .. ':open_totals', field, int_text(change)) <= 0 then
      redis.call('HDEL', root .. ':open_totals', field)
    end
  end
  if redis.call('HINCRBY', root .. ':kept_output_bytes', member, int_text(change)) <= 0 then
    redis.call('HDEL', root .. ':kept_output_bytes', member)
    redis.call('ZREM', root .. ':kept_outputs', member)
  else
    redis.call('ZADD', root .. ':kept_outputs', ms, member)
  end
end

local function commit_kept()
  for member, change in pairs(kept_changes) do change_kept(member, change) end
end
