"""What is done in one step on the server, in Lua, and where it keeps it.

All keys of a hub share the hash tag `{NAME}`, so that they lie in one slot of a cluster:

    twinwire:{NAME}:meta      hash: the log's epoch, the history it is appended to, the entries at
                              which epochs began, and what was counted
    twinwire:{NAME}:log       stream: the log
    twinwire:{NAME}:latest    hash: channel and key -> newest event, as "<seq> <time> <record>"
    twinwire:{NAME}:order     sorted set: channel and key by the seq of their newest event
    twinwire:{NAME}:marks     list: how far the log had got, and when, now and then; for trimming
    twinwire:{NAME}:call:N    string: a node's newest call, and its answer
    twinwire:{NAME}:once:C K  string: the position of what was published to C under the key K

and the channel twinwire:{NAME}:tell:DATABASE is what nodes tell each other on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

from twinwire.brokers.base import Config
from twinwire.brokers.redis.identity import Found, Noted, Server
from twinwire.brokers.redis.link import Argument
from twinwire.brokers.redis.stream import position_of
from twinwire.core.event import Draft, Position

_HISTORY: Final = """
local info = redis.call('INFO', 'replication')
local history = string.match(info, 'master_replid:(%w+)')
local primary = string.find(info, 'role:master', 1, true)
"""

APPEND: Final = (
    _HISTORY
    + """
local meta, log, latest, order, marks, call = unpack(KEYS, 1, 6)
local epoch, number, call_age, once_age = unpack(ARGV, 1, 4)
local keys_max, most, most_bytes, most_age = unpack(ARGV, 5, 8)
keys_max, most, most_bytes = tonumber(keys_max), tonumber(most), tonumber(most_bytes)
most_age = tonumber(most_age)

local noted = redis.call('HMGET', meta, 'epoch', 'history', 'count', 'bytes', 'mark')
if not primary or noted[1] ~= epoch or noted[2] ~= history then return 'look' end

-- A call whose answer was lost is repeated, and one that was given up may still come in late.
local done = redis.call('GET', call)
if done then
  local last, answer = string.match(done, '^(%d+) (.*)$')
  if tonumber(last) == tonumber(number) then return answer end
  if tonumber(last) > tonumber(number) then return 'late' end
end

-- Before the first write, after which an error would leave a part of the call done.
local keys = redis.call('ZCARD', order)
local clock = redis.call('TIME')
local now = string.format('%.0f', clock[1] * 1000 + math.floor(clock[2] / 1000))

local first, seq, count, bytes = '-', nil, 0, 0
local again, newest, fields = {}, {}, {}
for i = 9, #ARGV, 3 do
  local record, field, once = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local known = once ~= '' and redis.call('GET', KEYS[6 + once])
  if known then
    again[#again + 1] = ' ' .. (i - 9) / 3 .. ':' .. known
  else
    local id = redis.call('XADD', log, 'NOMKSTREAM', epoch .. '-*', now, record)
    if not id then return 'look' end
    if count == 0 then first = id end
    if once ~= '' then redis.call('SET', KEYS[6 + once], id, 'PX', once_age) end
    seq = string.match(id, '-(%d+)$')
    if not newest[field] then fields[#fields + 1] = field end
    newest[field] = { seq, record }
    count, bytes = count + 1, bytes + #record
  end
end
local answer = first .. table.concat(again)
redis.call('SET', call, number .. ' ' .. answer, 'PX', call_age)
if count == 0 then return answer end

-- The newest events of keys. Lua passes a few thousand arguments at most.
for from = 1, #fields, 1000 do
  local values, scores = {}, {}
  for i = from, math.min(from + 999, #fields) do
    local field, n = fields[i], 2 * (i - from)
    local event = newest[field]
    values[n + 1], values[n + 2] = field, event[1] .. ' ' .. now .. ' ' .. event[2]
    scores[n + 1], scores[n + 2] = event[1], field
  end
  redis.call('HSET', latest, unpack(values))
  keys = keys + redis.call('ZADD', order, unpack(scores))
end
local over = math.min(keys - keys_max, 2 * count + 100)
while over > 0 do
  local popped, gone = redis.call('ZPOPMIN', order, math.min(over, 1000)), {}
  if #popped == 0 then break end
  for i = 1, #popped, 2 do gone[#gone + 1] = popped[i] end
  redis.call('HDEL', latest, unpack(gone))
  over = over - #gone
end

-- Trimming. A mark says how much there had been up to an entry; what lies before one that is beyond
-- a limit can go. There are about 256 of them within each limit.
count = count + (tonumber(noted[3] or 0) or 0)
bytes = bytes + (tonumber(noted[4] or 0) or 0)
local pattern = '^(%d+) (%d+) (%d+) (%S+)$'
local marked, marked_bytes, marked_time = string.match(noted[5] or '', pattern)
local function due(limit, since) return limit > 0 and since >= limit / 256 end
count, bytes = string.format('%.0f', count), string.format('%.0f', bytes)
local mark = count .. ' ' .. bytes .. ' ' .. now .. ' ' .. epoch .. '-' .. seq
if due(most, count - (marked or 0)) or due(most_bytes, bytes - (marked_bytes or 0))
    or due(most_age, now - (marked_time or 0)) then
  redis.call('HSET', meta, 'count', count, 'bytes', bytes, 'mark', mark)
  redis.call('RPUSH', marks, mark)
  local upto
  while true do
    local c, b, t, id = string.match(redis.call('LINDEX', marks, 0) or '', pattern)
    if not c or not ((most > 0 and count - c >= most)
        or (most_bytes > 0 and bytes - b >= most_bytes)
        or (most_age > 0 and now - t > most_age)) then break end
    redis.call('LPOP', marks)
    upto = id
  end
  if upto then redis.call('XTRIM', log, 'MINID', '~', upto) end
else
  redis.call('HSET', meta, 'count', count, 'bytes', bytes)
end
return answer
"""
)
"""Append a call's events. Answers `<first position or -> <index>:<position>…` with those that were
published before; 'look' if the log must be looked at first, and 'late' if the call was given up."""

LOOK: Final = """
local log = redis.pcall('XINFO', 'STREAM', KEYS[2])
local head = ''
if log.err then
  if not string.find(log.err, 'no such key', 1, true) then return redis.error_reply(log.err) end
else
  for i = 1, #log, 2 do if log[i] == 'last-generated-id' then head = log[i + 1] end end
end
local noted = redis.call('HMGET', KEYS[1], 'epoch', 'history')
local info = ''
for _, section in ipairs({ 'server', 'replication', 'persistence' }) do
  info = info .. redis.call('INFO', section) .. '\\r\\n'
end
return {
  info, noted[1] or '', noted[2] or '', head, redis.call('TIME')
}
"""
"""What `Found` is made of, and the server's time."""

SETTLE: Final = (
    _HISTORY
    + """
local meta, log, latest, order, marks = unpack(KEYS)
local noted, found, outcome, least = unpack(ARGV)
least = tonumber(least)
-- Another node may have decided meanwhile.
local before = redis.call('HMGET', meta, 'epoch', 'history', 'epochs')
if not primary or (before[1] or '') ~= noted then return 0 end
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local ms, seq = string.match(found, '^(%d+)-(%d+)$')
seq = tonumber(seq or 0)

if outcome == 'resumed' then
  local info = redis.call('XINFO', 'STREAM', log)
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' and info[i + 1] ~= found then return 0 end
  end
  if before[2] == history then return 0 end
  -- A million numbers for each second of the epoch: no event can have had one of these.
  local free = math.max(seq + 1000000, (now - tonumber(noted)) * 1000)
  redis.call('XADD', log, noted .. '-' .. string.format('%.0f', free), 'resume',
    string.format('%.0f', seq))
else
  -- Numbers go on, so that the newest events of keys keep theirs.
  local newest = redis.call('ZREVRANGE', order, 0, 0, 'WITHSCORES')
  if newest[2] then seq = math.max(seq, tonumber(newest[2])) end
  local epoch = string.format('%.0f', math.max(now, least))
  local id = epoch .. '-' .. string.format('%.0f', seq)
  redis.call('XADD', log, id, 'begin', '')
  local epochs = {}
  if ms == noted then
    -- What there is keeps its numbers in the new epoch, for nodes that come later.
    for one in string.gmatch(before[3] or '', '%S+') do epochs[#epochs + 1] = one end
    if #epochs > 15 then table.remove(epochs, 1) end
  else
    -- It cannot be told any more what that is.
    redis.call('XTRIM', log, 'MINID', '=', id)
    redis.call('DEL', marks)
    redis.call('HDEL', meta, 'count', 'bytes', 'mark')
  end
  epochs[#epochs + 1] = id
  redis.call('HSET', meta, 'epoch', epoch, 'epochs', table.concat(epochs, ' '))
end
redis.call('HSET', meta, 'history', history)
return 1
"""
)
"""Note what has become of the log, if nobody else has: 1, or 0 to look again."""

NEWEST: Final = """
local fields = redis.call('ZRANGEBYSCORE', KEYS[2], ARGV[1], ARGV[2], 'LIMIT', 0, ARGV[3])
return #fields > 0 and redis.call('HMGET', KEYS[1], unpack(fields)) or {}
"""
"""The newest events of keys, between two seqs, the oldest first."""

PROBE: Final = """
local probe, channel = unpack(KEYS)
redis.call('DEL', probe)
redis.call('XADD', probe, 'NOMKSTREAM', '1-1', 'a', 'b')
redis.call('XTRIM', probe, 'MINID', '1-1')
redis.call('XREAD', 'COUNT', 1, 'STREAMS', probe, '1-1')
redis.call('SET', probe, '1', 'PX', 1000)
redis.call('GET', probe)
redis.call('DEL', probe)
redis.call('HSET', probe, 'a', 'b')
redis.call('HDEL', probe, 'a')
redis.call('ZADD', probe, 1, 'a')
redis.call('ZCARD', probe)
redis.call('ZREVRANGE', probe, 0, 0)
redis.call('ZPOPMIN', probe)
redis.call('RPUSH', probe, 'a')
redis.call('LINDEX', probe, 0)
redis.call('LPOP', probe)
redis.call('PUBLISH', ARGV[1], '')
redis.call('PING')
"""
"""Everything that will be asked, to no effect: what is not permitted shows at once."""

APPEND_SHA: Final = hashlib.sha1(APPEND.encode(), usedforsecurity=False).hexdigest()


class Keys:
    """The keys of a hub."""

    def __init__(self, hub: str, database: int) -> None:
        self.prefix = f"twinwire:{{{hub}}}:"
        names = ("meta", "log", "latest", "order", "marks")
        self.meta, self.log, self.latest, self.order, self.marks = (self.prefix + n for n in names)
        # Channels are not a database's own.
        self.tell = f"{self.prefix}tell:{database}"

    @property
    def main(self) -> tuple[str, ...]:
        return self.meta, self.log, self.latest, self.order, self.marks


def field_of(draft: Draft) -> str:
    """What the newest event of its key is found by; channels have no spaces."""
    return draft.channel if draft.key is None else f"{draft.channel} {draft.key}"


class Appender:
    """Makes a node's calls of `APPEND`, and reads the answers."""

    def __init__(self, keys: Keys, node: str, config: Config) -> None:
        keep = config.keep
        self._keys = (*keys.main, f"{keys.prefix}call:{node}")
        self._once = f"{keys.prefix}once:"
        # Long enough for whoever still waits for the answer.
        self._call_age = 600_000 + int(config.wait * 2000)
        self._rest: tuple[Argument, ...] = (
            max(1, round(config.idempotency_window * 1000)),
            config.keys_max,
            keep.events,
            keep.bytes,
            keep.age,
        )

    def command(
        self, number: int, epoch: int, drafts: Sequence[Draft], records: Sequence[bytes]
    ) -> tuple[Argument, ...]:
        """The command that appends `drafts`, stored as `records`, under `epoch`."""
        keys: list[str] = list(self._keys)
        fixed = len(keys)
        arguments: list[Argument] = [epoch, number, self._call_age, *self._rest]
        for draft, record in zip(drafts, records, strict=True):
            once: Argument = ""
            if draft.idempotency_key:
                keys.append(f"{self._once}{draft.channel} {draft.idempotency_key}")
                once = len(keys) - fixed
            arguments += (record, field_of(draft), once)
        return ("EVALSHA", APPEND_SHA, len(keys), *keys, *arguments)

    @staticmethod
    def positions(answer: bytes, count: int) -> tuple[list[Position], Position | None]:
        """Of so many drafts, and the newest new one."""
        first, *again = answer.split(b" ")
        known = {}
        for part in again:
            place, _, ident = part.partition(b":")
            known[int(place)] = position_of(ident)
        if first == b"-":
            return [known[index] for index in range(count)], None
        epoch, seq = position_of(first)
        if not known:
            positions = [Position(epoch, seq + index) for index in range(count)]
            return positions, positions[-1]
        positions = []
        for index in range(count):
            if (position := known.get(index)) is None:
                position = Position(epoch, seq)
                seq += 1
            positions.append(position)
        return positions, Position(epoch, seq - 1)


def info_of(text: bytes) -> dict[str, str]:
    """The fields of `INFO`."""
    pairs = (line.partition(":") for line in text.decode(errors="replace").splitlines())
    return {name: value for name, _, value in pairs if value}


def found_by(reply: Sequence[bytes]) -> Found:
    """What `LOOK` has found."""
    info, epoch, history, head = reply[:4]
    return Found(
        Server.of(info_of(info)),
        Noted(int(epoch), history.decode()) if epoch else None,
        position_of(head) if head else None,
    )
