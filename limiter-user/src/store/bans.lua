-- Publishes bans and reads those of others, in one step.
--
-- KEYS: a hash of what is known of each ban, a sorted set of them by when they changed, and one by
-- when they may be forgotten. ARGV: the change (us) up to which the reader has read, how many bans
-- are kept at most, how many changes are read at most, then for each change five values: 'new',
-- 'known' (it was made before, and may be known here) or 'lift'; the ban; how long it lasts (ms); who
-- says so; what is said of it.
-- Returns {the change up to which this reads, 1 if there are more, changes that found no room, and
-- for each change read four values: the ban, how long it lasts from now (ms, 0: lifted), who said so,
-- what was said of it}.
--
-- A lifted ban is remembered for a day: whoever was away lifts it, too, and does not publish it anew.

local REMEMBERED = 86400000
-- Changes of a moment's length are the same ban again.
local MOMENT = 2000

local time = redis.call('TIME')
local now_us = tonumber(time[1]) * 1000000 + tonumber(time[2])
local now = math.floor(now_us / 1000)
local about, changes, ends = KEYS[1], KEYS[2], KEYS[3]
local read, most, batch = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])

for _, ban in ipairs(redis.call('ZRANGEBYSCORE', ends, '-inf', now, 'LIMIT', 0, 1000)) do
  redis.call('HDEL', about, ban)
  redis.call('ZREM', changes, ban)
  redis.call('ZREM', ends, ban)
end

-- Until when (ms; 0: it was lifted), who said so, what was said.
local function known(ban)
  local kept = redis.call('HGET', about, ban)
  if not kept then return nil end
  local till, who, what = string.match(kept, '^(%d+) (%S+) (.*)$')
  return tonumber(till), who, what
end

local last = redis.call('ZREVRANGE', changes, 0, 0, 'WITHSCORES')
local change = math.max(now_us, tonumber(last[2] or 0) + 1)
local left_out, longest = 0, 0
for at = 4, #ARGV - 4, 5 do
  local what, ban, length = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])
  local till = known(ban)
  local is_said = true
  if what == 'lift' then
    is_said = till ~= nil and till > 0
  elseif what == 'known' then
    is_said = till == nil or (till > 0 and till + MOMENT < now + length)
  end
  if is_said and till == nil and redis.call('ZCARD', changes) >= most then
    left_out = left_out + 1
  elseif is_said then
    local ending, forgotten = now + length, now + length
    if what == 'lift' then ending, forgotten = 0, now + REMEMBERED end
    local said = string.format('%.0f %s %s', ending, ARGV[at + 3], ARGV[at + 4])
    redis.call('HSET', about, ban, said)
    redis.call('ZADD', changes, string.format('%.0f', change), ban)
    redis.call('ZADD', ends, string.format('%.0f', forgotten), ban)
    change = change + 1
    longest = math.max(longest, forgotten - now)
  end
end
if longest > 0 then
  -- Nobody needs them any more when the last ban has ended.
  for _, key in ipairs(KEYS) do
    if redis.call('PTTL', key) < longest + REMEMBERED then
      redis.call('PEXPIRE', key, string.format('%.0f', longest + REMEMBERED))
    end
  end
end

local found = redis.call('ZRANGEBYSCORE', changes, string.format('(%.0f', read), '+inf',
  'WITHSCORES', 'LIMIT', 0, batch)
local answer = { read, #found == 2 * batch and 1 or 0, left_out }
for at = 1, #found, 2 do
  local till, who, what = known(found[at])
  answer[1] = tonumber(found[at + 1])
  if till then
    answer[#answer + 1] = found[at]
    answer[#answer + 1] = till > 0 and math.max(0, till - now) or 0
    answer[#answer + 1] = who
    answer[#answer + 1] = what
  end
end
return answer
