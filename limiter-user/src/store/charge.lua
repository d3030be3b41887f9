-- Charges one request to several limits at once: a request that one refuses is counted against none.
--
-- KEYS: one for each limit. ARGV: for each limit seven values,
--   bucket: 'b', price us, price ticks, depth us, depth ticks, 0, enforced
--   window: 's' (sliding) or 'f' (fixed), period us, most, price, 0, 0, enforced
-- where price is what the request costs, enforced is 1 or 0 (monitor), and a us has 16000 ticks.
-- Returns {now us, 1 if refused, and for each limit its state before: {debt us, debt ticks} or
-- {previous, current}}.
--
-- The same arithmetic as limits/algorithm.rs. Lua knows only doubles: whole numbers are exact below
-- 2^53, so a time in ticks is two numbers. The time is this server's: all hosts count by one clock.

local TICKS = 16000
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

-- Whether the first pair is no more than the second.
local function within(us, ticks, most_us, most_ticks)
  return us < most_us or (us == most_us and ticks <= most_ticks)
end

-- What is stored, as the limit is now. The used share of a limit that has changed is kept.
local kinds = { b = {}, s = {}, f = {} }

function kinds.b.read(kept, limit)
  local us, ticks = 0, 0
  if kept and kept[1] == 'b' then
    us, ticks = kept[2] - now, kept[3]
    if us < 0 then us, ticks = 0, 0 end
    if kept[4] ~= limit[4] or kept[5] ~= limit[5] then
      local share = (us + ticks / TICKS) / (kept[4] + kept[5] / TICKS)
      us, ticks = math.ceil(share * (limit[4] + limit[5] / TICKS)), 0
    end
  elseif kept then
    us = math.ceil(kinds[kept[1]].share(kept) * (limit[4] + limit[5] / TICKS))
  end
  if not within(us, ticks, limit[4], limit[5]) then us, ticks = limit[4], limit[5] end
  return us, ticks
end

function kinds.b.share(kept)
  return math.max(0, math.min(1, (kept[2] - now) / (kept[4] + kept[5] / TICKS)))
end

function kinds.b.allows(limit, us, ticks)
  us, ticks = us + limit[2], ticks + limit[3]
  if ticks >= TICKS then us, ticks = us + 1, ticks - TICKS end
  return within(us, ticks, limit[4], limit[5])
end

function kinds.b.write(key, limit, us, ticks)
  us, ticks = us + limit[2], ticks + limit[3]
  if ticks >= TICKS then us, ticks = us + 1, ticks - TICKS end
  local value = string.format('b %.0f %.0f %.0f %.0f', now + us, ticks, limit[4], limit[5])
  redis.call('SET', key, value, 'PX', string.format('%.0f', math.floor(us / 1000) + 1))
end

-- Windows are stored with when they began: a clock that was set back empties none.
local function windows(kept)
  local period = kept[3]
  local start = now - now % period
  if kept[2] >= start then return kept[5], kept[6] end
  if kept[2] == start - period then return kept[6], 0 end
  return 0, 0
end

local function share_of_window(kept)
  local previous, current = windows(kept)
  if kept[1] == 's' then
    current = current + weighted(previous, kept[3] - now % kept[3], kept[3])
  end
  return math.min(1, current / kept[4])
end

local function read_window(kept, limit)
  if not kept then return 0, 0 end
  if kept[1] == limit[1] and kept[3] == limit[2] then
    local previous, current = windows(kept)
    if kept[4] ~= limit[3] then
      previous = math.ceil(previous * limit[3] / kept[4])
      current = math.ceil(current * limit[3] / kept[4])
    end
    return previous, current
  end
  return 0, math.ceil(kinds[kept[1]].share(kept) * limit[3])
end

local function write_window(key, limit, previous, current)
  local period = limit[2]
  local value = string.format('%s %.0f %.0f %.0f %.0f %.0f',
    limit[1], now - now % period, period, limit[3], previous, current + limit[4])
  local lasts = period - now % period
  if limit[1] == 's' then lasts = lasts + period end
  redis.call('SET', key, value, 'PX', string.format('%.0f', math.floor(lasts / 1000) + 1))
end

function kinds.s.allows(limit, previous, current)
  local period = limit[2]
  return weighted(previous, period - now % period, period) + current + limit[4] <= limit[3]
end

function kinds.f.allows(limit, _, current)
  return current + limit[4] <= limit[3]
end

for _, kind in ipairs({ kinds.s, kinds.f }) do
  kind.read, kind.write, kind.share = read_window, write_window, share_of_window
end

-- What a key holds; nil for nothing, and for what this script did not write.
local function parse(value)
  if not value then return nil end
  local kept = {}
  for word in string.gmatch(value, '%S+') do
    local place = #kept + 1
    kept[place] = place == 1 and word or tonumber(word)
    if not kept[place] then return nil end
  end
  if kept[1] == 'b' then return #kept == 5 and kept[4] + kept[5] > 0 and kept or nil end
  if not kinds[kept[1]] then return nil end
  return #kept == 6 and kept[3] > 0 and kept[4] > 0 and kept or nil
end

local stored = redis.call('MGET', unpack(KEYS))
local limits, allowed, refused = {}, {}, 0
local answer = { now, 0 }
for i = 1, #KEYS do
  local at = 7 * (i - 1)
  local limit = { ARGV[at + 1] }
  for j = 2, 7 do limit[j] = tonumber(ARGV[at + j]) end
  local kept = parse(stored[i])
  local kind = kinds[limit[1]]
  local first, second = kind.read(kept, limit)
  limits[i], allowed[i] = limit, kind.allows(limit, first, second)
  answer[i + 2] = { first, second }
  if limit[7] == 1 and not allowed[i] then refused = 1 end
end
if refused == 0 then
  for i = 1, #KEYS do
    if allowed[i] then
      kinds[limits[i][1]].write(KEYS[i], limits[i], answer[i + 2][1], answer[i + 2][2])
    end
  end
end
answer[2] = refused
return answer
