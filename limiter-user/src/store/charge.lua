-- Charges one request to several limits at once, or gives back what was charged.
--
-- KEYS: one for each limit. ARGV: 0, or the time (us) at which what is given back was charged; then
-- for each limit eight values,
--   bucket: 'b', price, price's rest, depth, depth's rest, unit, unit's rest, enforced
--   window: 's' (sliding) or 'f' (fixed), period, most, price, 0, 0, 0, enforced
-- where price is what the request costs and unit what a cost of one does, times are us and ticks
-- (4000 to a us) beyond them, enforced is 1 or 0 (monitor). A request that an enforced limit refuses
-- is counted against none.
-- Returns {now us, 1 if refused, and for each limit its state before: {debt us, debt ticks} or
-- {previous, current}}; when giving back, now.
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

-- Each kind: what is stored of it (read), whether the price fits (allows), what is stored when it
-- is charged (write), how much of it is used (used, of what is stored whatever the limit is now).
local kinds = { b = {}, s = {}, f = {} }

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
function kinds.b.read(kept, limit)
  local us, ticks = 0, 0
  if kept and kept[1] == 'b' then
    us, ticks = owed(kept)
    if kept[4] ~= limit[6] or kept[5] ~= limit[7] then
      local ratio = (limit[6] + limit[7] / TICKS) / (kept[4] + kept[5] / TICKS)
      us, ticks = up((us + ticks / TICKS) * ratio), 0
    end
  elseif kept then
    us = up(kinds[kept[1]].used(kept) * (limit[6] + limit[7] / TICKS))
  end
  if not within(us, ticks, limit[4], limit[5]) then us, ticks = limit[4], limit[5] end
  return us, ticks
end

function kinds.b.used(kept)
  local us, ticks = owed(kept)
  return up((us + ticks / TICKS) / (kept[4] + kept[5] / TICKS))
end

function kinds.b.allows(limit, us, ticks)
  us, ticks = plus(us, ticks, limit[2], limit[3])
  return within(us, ticks, limit[4], limit[5])
end

function kinds.b.write(key, limit, us, ticks)
  us, ticks = plus(us, ticks, limit[2], limit[3])
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

function window.read(kept, limit)
  if not kept then return 0, 0 end
  if kept[1] == limit[1] and kept[3] == limit[2] then return windows(kept) end
  return 0, math.min(kinds[kept[1]].used(kept), limit[3])
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

function window.write(key, limit, previous, current)
  local period = limit[2]
  local into = now % period
  local lasts = period - into
  if limit[1] == 's' then lasts = lasts + period end
  redis.call('SET', key, window_value(limit[1], now - into, period, previous, current + limit[4]),
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

-- What a key holds; nil for nothing, and for what this script did not write.
local function parse(value)
  local kept = {}
  for word in string.gmatch(value or '', '%S+') do
    local place = #kept + 1
    kept[place] = place == 1 and word or tonumber(word)
    if not kept[place] then return nil end
  end
  if #kept ~= 5 or not kinds[kept[1]] then return nil end
  local divisor = kept[1] == 'b' and kept[4] + kept[5] or kept[3]
  return divisor > 0 and kept or nil
end

local stored = redis.call('MGET', unpack(KEYS))
local limits, allowed, refused = {}, {}, 0
local at = tonumber(ARGV[1])
local answer = { now, 0 }
for i = 1, #KEYS do
  local first = 8 * i - 6
  local limit = { ARGV[first] }
  for j = 2, 8 do limit[j] = tonumber(ARGV[first + j - 1]) end
  local kind, kept = kinds[limit[1]], parse(stored[i])
  if at > 0 then
    if kept and kept[1] == limit[1] then kind.give_back(KEYS[i], limit, kept, at) end
  else
    local one, other = kind.read(kept, limit)
    limits[i], allowed[i], answer[i + 2] = limit, kind.allows(limit, one, other), { one, other }
    if limit[8] == 1 and not allowed[i] then refused = 1 end
  end
end
if at > 0 then return now end
if refused == 0 then
  for i = 1, #KEYS do
    if allowed[i] then
      kinds[limits[i][1]].write(KEYS[i], limits[i], answer[i + 2][1], answer[i + 2][2])
    end
  end
end
answer[2] = refused
return answer
