"""What the limits of keys are in Redis, and the scripts that read and change them as one.

Times are milliseconds of the server's own clock, so that gateways need not agree on theirs. Names:
``members`` says until when each process counts as alive; of a key, ``open`` is what its requests
under way hold, by process, ``minute`` what the last 60 seconds have used, ``spent`` what a day or
a month has. A minute is a list of (moment, amount), one entry a second, as in state/meter.py."""

from __future__ import annotations

PREFIX = "{portico}:limits:"
"""In braces what keeps all of it on one node of a cluster."""

MEMBERS = PREFIX + "members"

DAY_KEPT, MONTH_KEPT = 3 * 86400, 40 * 86400
"""Seconds for which sums of a day and a month are kept."""

OPEN_FOR = 60_000
"""Milliseconds for which what is under way is kept unless it is confirmed, which its processes do
every few seconds."""

GONE, GRANTED, REFUSED = 0, 1, 2
"""How TAKE begins its answer. GONE: the process does not count as alive, and has to begin anew."""

_COMMON = """
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local function alive(who)
  return tonumber(redis.call('ZSCORE', KEYS[1], who) or '0') > now
end

local function ring(name)
  local kept, total = {}, 0
  local raw = redis.call('HGET', KEYS[3], name)
  for _, part in ipairs(raw and cmsgpack.unpack(raw) or {}) do
    if part[1] + 60000 > now then
      kept[#kept + 1] = part
      total = total + part[2]
    end
  end
  return kept, total
end

local function keep(name, kept)
  redis.call('HSET', KEYS[3], name, cmsgpack.pack(kept))
  redis.call('PEXPIRE', KEYS[3], 61000)
end

local function second(moment)
  return math.floor(moment / 1000)
end

local function book(name, kept, amount)
  local last = kept[#kept]
  if last and second(last[1]) == second(now) then
    kept[#kept] = {now, last[2] + amount}
  else
    kept[#kept + 1] = {now, amount}
  end
  keep(name, kept)
end
"""

TAKE = (
    _COMMON
    + """
-- KEYS: members, open, minute, spent in the day, spent in the month
-- ARGV: process, tokens (-1: it costs none), the limits (-1: none) of requests at once, of
--       requests and tokens a minute, of tokens a day and a month
if not alive(ARGV[1]) then return {0} end
local tokens, most = tonumber(ARGV[2]), {}
for i = 3, 7 do most[i - 2] = tonumber(ARGV[i]) end

local running, held = 0, 0
local cells = redis.call('HGETALL', KEYS[2])
for i = 1, #cells, 2 do
  local kind, who = string.sub(cells[i], 1, 1), string.sub(cells[i], 3)
  if not alive(who) then
    redis.call('HDEL', KEYS[2], cells[i])
  elseif kind == 'r' then
    running = running + tonumber(cells[i + 1])
  else
    held = held + tonumber(cells[i + 1])
  end
end
local requests, requested = ring('requests')
local minute, used = ring('tokens')
local day = tonumber(redis.call('GET', KEYS[4]) or '0')
local month = tonumber(redis.call('GET', KEYS[5]) or '0')

local function over(limit, so_far, need)
  return limit >= 0 and so_far + math.min(need, limit) > limit
end

local need = math.max(tokens, 1)
local full = over(most[1], running, 1) or over(most[2], requested, 1)
if tokens >= 0 then
  full = full or over(most[3], used, need) or over(most[4], day + held, need)
    or over(most[5], month + held, need)
end
if full then
  return {2, now, running, held, day, month, requests, minute}
end

redis.call('HINCRBY', KEYS[2], 'r:' .. ARGV[1], 1)
redis.call('PEXPIRE', KEYS[2], 60000)
if most[2] >= 0 then book('requests', requests, 1) end
if tokens > 0 then
  redis.call('HINCRBY', KEYS[2], 'h:' .. ARGV[1], tokens)
  held = held + tokens
  if most[3] >= 0 then book('tokens', minute, math.min(tokens, most[3])) end
end

local function sum(kept)
  local newest, total = 0, 0
  for _, part in ipairs(kept) do newest, total = part[1], total + part[2] end
  return {{newest, total}}
end

return {1, now, running, held, day, month, sum(requests), sum(minute)}
"""
)
"""Count a request in where there is room: {how, now, requests at once before it, tokens held, spent
in the day and the month, the parts of the minute's requests and tokens (where there was room only
their sums)}."""

SETTLE = (
    _COMMON
    + """
-- KEYS: as in TAKE
-- ARGV: process, what is added to its requests at once, to its tokens held, to the minute's
--       requests and tokens, when the latter were booked, what was spent, for how many seconds
--       the day's and the month's sum are kept
local known = alive(ARGV[1])
if known then
  for i, kind in ipairs({'r:', 'h:'}) do
    local step = tonumber(ARGV[i + 1])
    local left = step ~= 0 and redis.call('HINCRBY', KEYS[2], kind .. ARGV[1], step)
    if left and left <= 0 then redis.call('HDEL', KEYS[2], kind .. ARGV[1]) end
  end
end
local requests, tokens, spent = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[7])
if requests > 0 then book('requests', ring('requests'), requests) end
if tokens > 0 then
  book('tokens', ring('tokens'), tokens)
elseif tokens < 0 then
  local kept = ring('tokens')
  for i, part in ipairs(kept) do
    if second(part[1]) == second(tonumber(ARGV[6])) then
      kept[i] = {part[1], math.max(0, part[2] + tokens)}
      keep('tokens', kept)
    end
  end
end
if spent > 0 then
  redis.call('INCRBY', KEYS[4], spent)
  redis.call('EXPIRE', KEYS[4], ARGV[8])
  redis.call('INCRBY', KEYS[5], spent)
  redis.call('EXPIRE', KEYS[5], ARGV[9])
end
return known and 1 or 0
"""
)
"""Count a request out, and what it cost. 0 where the process does not count as alive."""

BEAT = """
-- KEYS: members, and each key's open that this process has a part in
-- ARGV: process, for how long it is alive, 1 where it is new
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local until_ = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or '0')
if ARGV[3] == '0' and until_ <= now then return {} end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[1])
for i = 2, #KEYS do redis.call('PEXPIRE', KEYS[i], 60000) end
return redis.call('ZRANGE', KEYS[1], 0, -1)
"""
"""Stay alive: all that are. Nothing where it is too late for that."""


def open_of(mark: str) -> str:
    return f"{PREFIX}open:{mark}"


def minute_of(mark: str) -> str:
    return f"{PREFIX}minute:{mark}"


def spent_of(mark: str, day: int, month: int) -> tuple[str, str]:
    """The names of what a key has spent in a day and in a month (core/limits.py counts both)."""
    return f"{PREFIX}day:{mark}:{day}", f"{PREFIX}month:{mark}:{month}"


def kept_for(name: str) -> int:
    """Seconds for which one of those is kept."""
    return DAY_KEPT if name.startswith(f"{PREFIX}day:") else MONTH_KEPT
