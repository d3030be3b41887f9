-- Charges one request to several limits at once, and before that gives back what was charged by
-- requests that are not to count.
--
-- KEYS: one for each limit that something is given back to, then one for each limit that charges.
-- ARGV: how many give back; for each of these nine values, the time (us) at which it was charged and
-- what follows; then for each limit that charges eight values,
--   bucket: 'b', price, price's rest, depth, depth's rest, unit, unit's rest, enforced
--   window: 's' (sliding) or 'f' (fixed), period, most, price, 0, 0, 0, enforced
-- where price is what the request costs and unit what a cost of one does, times are us and ticks
-- (4000 to a us) beyond them, enforced is 1 or 0 (monitor). A request that an enforced limit refuses
-- is counted against none.
-- Returns {now us, 1 if refused, values found that this script did not write (they count for
-- nothing), and for each limit its state before: {debt us, debt ticks} or {previous, current}}.
--
-- The same arithmetic as limits/algorithm.rs. Lua knows only doubles: whole numbers are exact below
-- 2^53, so a time in ticks is two numbers. The time is this server's: all hosts count by one clock.

local TICKS = 4000
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])

-- previous * left / period, rounded up. In five digits to the base of 16 where it is large.
local function weighted(previous, left, period)
  if previous * left < 9007199254740992 then
    local product = previous * left
    local whole = math.floor(product / period)
    if whole * period < product then whole = whole + 1 end
    return whole
  end
  local whole, rest = 0, 0
  for place = 4, 0, -1 do
    local digit = math.floor(previous / 16 ^ place) % 16
    rest = rest * 16 + digit * left
    local fits = math.floor(rest / period)
    whole = whole * 16 + fits
    rest = rest - fits * period
  end
  if rest > 0 then whole = whole + 1 end
  return whole
end

-- Each kind: what is stored of it, and whether that is to be stored anew even if nothing is charged
-- (read), whether the price fits (allows), what it is then (charged), how it is stored (write), how
-- much of it is used (used, of what is stored whatever the limit is now).
local kinds = { b = {}, s = {}, f = {} }
local unreadable = 0

-- Whatever is written here ends by itself: what does not was written by somebody else.
local function is_foreign(key)
  if redis.call('PTTL', key) ~= -1 then return false end
  unreadable = unreadable + 1
  return true
end

-- Rounded up, but for what the division itself leaves.
local function up(number)
  return math.ceil(number - 0.000001)
end

-- What is owed now: stored is {'b', until us, ticks, unit us, unit ticks}.
local function owed(kept)
  local us, ticks = kept[2] - now, kept[3]
  if us < 0 then return 0, 0 end
  return us, ticks
end

local function plus(us, ticks, more_us, more_ticks)
  us, ticks = us + more_us, ticks + more_ticks
  if ticks >= TICKS then us, ticks = us + 1, ticks - TICKS end
  return us, ticks
end

local function within(us, ticks, most_us, most_ticks)
  return us < most_us or (us == most_us and ticks <= most_ticks)
end

-- A limit that has changed has used as much as before, up to what it holds.
function kinds.b.read(key, kept, limit)
  local us, ticks, is_changed = 0, 0, false
  if kept and kept[1] == 'b' then
    us, ticks = owed(kept)
    if kept[4] ~= limit[6] or kept[5] ~= limit[7] then
      is_changed = true
      local ratio = (limit[6] + limit[7] / TICKS) / (kept[4] + kept[5] / TICKS)
      us, ticks = up((us + ticks / TICKS) * ratio), 0
    end
  elseif kept then
    is_changed = true
    us = up(kinds[kept[1]].used(kept) * (limit[6] + limit[7] / TICKS))
  end
  if not within(us, ticks, limit[4], limit[5]) then
    if is_foreign(key) then return 0, 0, true end
    us, ticks, is_changed = limit[4], limit[5], true
  end
  return us, ticks, is_changed
end

function kinds.b.used(kept)
  local us, ticks = owed(kept)
  return up((us + ticks / TICKS) / (kept[4] + kept[5] / TICKS))
end

function kinds.b.allows(limit, us, ticks)
  us, ticks = plus(us, ticks, limit[2], limit[3])
  return within(us, ticks, limit[4], limit[5])
end

function kinds.b.charged(limit, us, ticks)
  return plus(us, ticks, limit[2], limit[3])
end

function kinds.b.write(key, limit, us, ticks)
  local value = string.format('b %.0f %.0f %.0f %.0f', now + us, ticks, limit[6], limit[7])
  redis.call('SET', key, value, 'PX', string.format('%.0f', math.floor(us / 1000) + 1))
end

-- What has leaked since is not given back.
function kinds.b.give_back(key, limit, kept, at)
  local us, ticks = limit[2] - (now - at), limit[3]
  if us < 0 or kept[4] ~= limit[6] or kept[5] ~= limit[7] then return end
  us, ticks = kept[2] - us, kept[3] - ticks
  if ticks < 0 then us, ticks = us - 1, ticks + TICKS end
  if us < now then
    redis.call('DEL', key)
  else
    local value = string.format('b %.0f %.0f %.0f %.0f', us, ticks, kept[4], kept[5])
    redis.call('SET', key, value, 'KEEPTTL')
  end
end

-- Stored is {kind, start us, period, previous, current}: a clock that was set back empties nothing.
local function windows(kept)
  local period = kept[3]
  local start = now - now % period
  if kept[2] >= start then return kept[4], kept[5] end
  if kept[2] == start - period then return kept[5], 0 end
  return 0, 0
end

local function window_value(kind, start, period, previous, current)
  return string.format('%s %.0f %.0f %.0f %.0f', kind, start, period, previous, current)
end

local window = {}

function window.read(key, kept, limit)
  if not kept then return 0, 0, false end
  local is_same = kept[1] == limit[1] and kept[3] == limit[2]
  local previous, current = 0, 0
  if is_same then previous, current = windows(kept) else current = kinds[kept[1]].used(kept) end
  local is_later = kept[1] ~= 'b' and kept[2] > now
  if (is_later or current > limit[3]) and is_foreign(key) then return 0, 0, true end
  if is_same then return previous, current, false end
  return 0, math.min(current, limit[3]), true
end

function window.used(kept)
  local previous, current = windows(kept)
  if kept[1] == 'f' then return current end
  return current + weighted(previous, kept[3] - now % kept[3], kept[3])
end

function window.allows(limit, previous, current)
  local period, used = limit[2], current
  if limit[1] == 's' then used = used + weighted(previous, period - now % period, period) end
  return used + limit[4] <= limit[3]
end

function window.charged(limit, previous, current)
  return previous, current + limit[4]
end

function window.write(key, limit, previous, current)
  local period = limit[2]
  local into = now % period
  local lasts = period - into
  if limit[1] == 's' then lasts = lasts + period end
  redis.call('SET', key, window_value(limit[1], now - into, period, previous, current),
    'PX', string.format('%.0f', math.floor(lasts / 1000) + 1))
end

function window.give_back(key, limit, kept, at)
  local period = limit[2]
  if kept[1] ~= limit[1] or kept[3] ~= period then return end
  local start, previous, current = at - at % period, kept[4], kept[5]
  if kept[2] == start then
    current = math.max(0, current - limit[4])
  elseif kept[2] == start + period then
    previous = math.max(0, previous - limit[4])
  else
    return
  end
  redis.call('SET', key, window_value(kept[1], kept[2], period, previous, current), 'KEEPTTL')
end

kinds.s, kinds.f = window, window

-- A whole number that is exact; nil for any other, and for what is none ('nan').
local function whole(text)
  local number = tonumber(text)
  if number and number >= 0 and number < 9007199254740992 and number % 1 == 0 then return number end
  return nil
end

-- What a key holds; nil for nothing, and for what this script did not write.
local function parse(value)
  if not value then return nil end
  local kept = {}
  for word in string.gmatch(value, '%S+') do
    local part
    if #kept == 0 then part = kinds[word] and word else part = whole(word) end
    if not part then
      kept = {}
      break
    end
    kept[#kept + 1] = part
  end
  if #kept == 5 and (kept[1] == 'b' and kept[4] + kept[5] or kept[3]) > 0 then return kept end
  unreadable = unreadable + 1
  return nil
end

local function limit_at(first)
  local limit = { ARGV[first] }
  for j = 2, 8 do limit[j] = tonumber(ARGV[first + j - 1]) end
  return limit
end

local given = tonumber(ARGV[1])
for i = 1, given do
  local first = 9 * i - 7
  local limit, kept = limit_at(first + 1), parse(redis.call('GET', KEYS[i]))
  if kept and kept[1] == limit[1] then
    kinds[limit[1]].give_back(KEYS[i], limit, kept, tonumber(ARGV[first]))
  end
end
local answer = { now, 0, 0 }
local stored = #KEYS > given and redis.call('MGET', unpack(KEYS, given + 1)) or {}
local limits, allowed, changed, refused = {}, {}, {}, 0
for i = 1, #stored do
  local key, limit = KEYS[given + i], limit_at(9 * given + 8 * i - 6)
  local kind = kinds[limit[1]]
  local one, other, is_changed = kind.read(key, parse(stored[i]), limit)
  limits[i], allowed[i], changed[i] = limit, kind.allows(limit, one, other), is_changed
  answer[i + 3] = { one, other }
  if limit[8] == 1 and not allowed[i] then refused = 1 end
end
for i = 1, #stored do
  local key, limit, kind = KEYS[given + i], limits[i], kinds[limits[i][1]]
  local one, other = answer[i + 3][1], answer[i + 3][2]
  if refused == 0 and allowed[i] then
    kind.write(key, limit, kind.charged(limit, one, other))
  elseif changed[i] then
    -- As the limit is now, so that it goes on from there.
    kind.write(key, limit, one, other)
  end
end
answer[2], answer[3] = refused, unreadable
return answer
