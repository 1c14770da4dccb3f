"""How Redis keeps the history of a topic: two keys, two scripts, and a position at the start of published messages.

The messages are a stream, each under its offset. Beside it, a hash has the epoch, the offset of the last message, and
for each publishing process the count of its last message, by which a repeated one is recognised. Messages with an id of
their own are recognised by it. When there are many publishers or ids, the oldest of them are forgotten. A script runs
alone, so a client that reads the history and listens misses nothing between the two. It appends before it counts: Redis
undoes nothing when a command of a script is refused, and a counted message that is not kept would be a gap, or a
repeated message that is taken as kept.

The messages expire some seconds after the last one. The hash lives `REMEMBERED` times as long, because it can show that
a client has missed nothing, and never less than `_LEAST_SECONDS`.

A topic begins with its first message; reading creates nothing. The position of a topic without a hash is offset 0 of an
epoch that no message has: it names the time and the server. For `UNUSED_SECONDS` it is a position before all messages
of the topic, since a topic that had begun meanwhile would still have its hash. The epoch also has the number of keys
that the server has evicted for want of memory: when it grows, the position is not valid any more.

A server that is killed while it writes to its append-only file can leave the beginning of a message's commands there
(in Redis 7, up to a MULTI without its EXEC). It ignores them at its next start, but not at the one after that. Then
they come before what was written later, and another message can have got the same offset. So the entry of a message has
the time in its id as well, and the last entry of an offset is the message. The time belongs to the count of a message
too: if the last entry of its offset has another time, the message was not kept. Unless it is the same message: when the
clock has gone back between the two starts, Redis refuses the later entry of the offset, because its id is smaller.

A server that was restarted from its disk, and a replica that took over, can have lost the last messages without knowing
it. They would give the same offsets to other messages. So the hash has the run id of the server as well, which is
different after both. When it differs, a new epoch begins, whose offsets continue those of the last one. A client that
asks with a position of another epoch gets the messages of the current epoch, because it can have seen all others. The
answer is not `complete`.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Any

from pywsapp._clients.redis_connection import Command
from pywsapp.brokers.base import Keep, Kept, Position
from pywsapp.exceptions import TopicError
from pywsapp.topics.history.memory_store import REMEMBERED

#: Publishing processes whose last message a topic remembers, and in addition, ids of messages.
MAX_PUBLISHERS = 1000
#: Seconds for which the position of a topic is valid on which nothing was published.
UNUSED_SECONDS = 3600
#: Seconds for which the hash of a topic lives at least, so that no topic begins and is forgotten in `UNUSED_SECONDS`.
_LEAST_SECONDS = UNUSED_SECONDS + 60
#: The largest integer that the numbers of Lua represent exactly.
_MAX_OFFSET = 2**53
#: The first byte of a payload with a position, and of a payload that begins with this byte itself. No envelope does.
_MARK = b"\0"
_MAX_HEAD_BYTES = 80
#: Messages that the script reads at once.
_PART = 50

_META = """
local messages, meta = KEYS[1], KEYS[2]
local known = redis.call('HMGET', meta, 'run', 'epoch', 'offset', 'before')
local epoch, offset, before = known[2], known[3], known[4]
if known[1] and known[1] ~= ARGV[1] then
  epoch, before = ARGV[2], offset
  redis.call('HSET', meta, 'run', ARGV[1], 'epoch', epoch, 'before', before)
end
"""

_APPEND = f"""{_META}
if not known[1] then
  epoch, offset, before = ARGV[2], '0', '0'
  redis.call('DEL', messages)
  redis.call('HSET', meta, 'run', ARGV[1], 'epoch', epoch, 'offset', offset, 'before', before)
end
local publisher, count, size, ms, longer, data = ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local field = (count == '0' and 'id ' or 'by ') .. publisher
local seen = redis.call('HGET', meta, field)
if seen then
  local last, moment, place = string.match(seen, '^(%d+) (%d+) (%d+)$')
  if tonumber(last) > tonumber(count) then return false end
  if last == count then
    local kept = redis.call('XRANGE', messages, place, place)
    local entry = kept[#kept]
    if not entry or entry[1] == place .. '-' .. moment or entry[2][2] == data then return false end
  end
end
local now = redis.call('TIME')
local moment = now[1] .. string.format('%03d', math.floor(now[2] / 1000))
offset = string.format('%.0f', tonumber(offset) + 1)
redis.call('XADD', messages, 'MAXLEN', size, offset .. '-' .. moment, 'm', data)
redis.call('HSET', meta, 'offset', offset, field, count .. ' ' .. moment .. ' ' .. offset)
redis.call('PEXPIRE', messages, ms)
redis.call('PEXPIRE', meta, longer)
if redis.call('HLEN', meta) > 2 * {MAX_PUBLISHERS} + 4 then
  local all, groups = redis.call('HGETALL', meta), {{['by '] = {{}}, ['id '] = {{}}}}
  for i = 1, #all, 2 do
    local group = groups[string.sub(all[i], 1, 3)]
    if group then group[#group + 1] = {{all[i], tonumber(string.match(all[i + 1], '%d+$'))}} end
  end
  for _, group in pairs(groups) do
    table.sort(group, function(a, b) return a[2] < b[2] end)
    for i = 1, #group - {MAX_PUBLISHERS} / 2 do redis.call('HDEL', meta, group[i][1]) end
  end
end
redis.call(ARGV[9], ARGV[10], '\\0' .. offset .. '-' .. epoch .. ' ' .. data)
return offset
"""

_READ = f"""{_META}
local is_unused = false
if not known[1] or string.sub(ARGV[4], 1, 1) == 'z' then
  local now, evicted = redis.call('TIME')[1], string.match(redis.call('INFO', 'stats'), 'evicted_keys:(%d+)')
  local tag = string.sub(redis.sha1hex(ARGV[1] .. ' ' .. (evicted or '')), 1, 8)
  local moment, of = string.match(ARGV[4], '^z(%d+)x(%x+)$')
  if ARGV[3] == '0' and of == tag then
    local age = tonumber(now) - tonumber(moment)
    is_unused = age >= 0 and age < {UNUSED_SECONDS}
  end
  if not known[1] then epoch, offset, before = 'z' .. now .. 'x' .. tag, '0', '0' end
end
if ARGV[3] == '' then return {{epoch, offset, {{}}, 0}} end
local behind = before
if is_unused then
  behind = '0'
elseif ARGV[4] == epoch and tonumber(ARGV[3]) <= tonumber(offset) then
  behind = ARGV[3]
end
local start, limit, found, size = string.format('%.0f', tonumber(behind) + 1), tonumber(ARGV[5]), {{}}, 0
local last, is_full
repeat
  local part = redis.call('XRANGE', messages, start, offset, 'COUNT', {_PART})
  for i = 1, #part do
    local number, moment = string.match(part[i][1], '^(%d+)-(%d+)$')
    if number == last then
      found[#found] = part[i]
    elseif size < limit then
      found[#found + 1] = part[i]
      size = size + #part[i][2][2]
      last = number
    else
      is_full = true
    end
    start = number .. '-' .. string.format('%.0f', tonumber(moment) + 1)
  end
until #part < {_PART} or is_full
return {{epoch, offset, found, is_unused and 1 or 0}}
"""

_APPEND_SHA = hashlib.sha1(_APPEND.encode(), usedforsecurity=False).hexdigest()


def append_command(
    key_prefix: str,
    run_id: bytes,
    keep: Keep,
    data: bytes,
    publish: tuple[str, bytes],
    *,
    by_hash: bool,
    is_reserved: bool = False,
) -> Command:
    """Return the command that keeps a message and publishes it, unless the history has the message already.

    Args:
        key_prefix: the beginning of the names of the topic's keys.
        run_id: the run id of the server.
        keep: the id of the message, and how long it is kept.
        data: the message.
        publish: the command that publishes, and the channel.
        by_hash: whether to name the script by its hash, for a server that has the script.
        is_reserved: whether no client can know a position of the topic, so that its hash need not live longer.
    """
    publisher, count = keep.id
    ms = max(1, round(keep.seconds * 1000))
    script = ("EVALSHA", _APPEND_SHA) if by_hash else ("EVAL", _APPEND)
    longer = ms * REMEMBERED if is_reserved else max(ms * REMEMBERED, _LEAST_SECONDS * 1000)
    arguments = (publisher, count, keep.size, ms, longer, data, *publish)
    return (*script, *_keys(key_prefix), run_id, _new_epoch(), *arguments)


def read_command(key_prefix: str, run_id: bytes, since: Position | None, max_bytes: int | None) -> Command:
    """Return the command that reads the messages after a position, or only the current position if `since` is None."""
    after = ("", "") if since is None else (str(min(since.offset, _MAX_OFFSET)), since.epoch)
    limit = _MAX_OFFSET if max_bytes is None else max_bytes
    return ("EVAL", _READ, *_keys(key_prefix), run_id, _new_epoch(), *after, limit)


def parse_history(reply: Any, since: Position | None) -> Kept:
    """Parse the reply to `read_command`."""
    epoch, offset, entries, is_unused = reply
    position = Position(epoch.decode(), int(offset))
    if since is None:
        return Kept(position, (), True)
    messages = tuple((int(number.partition(b"-")[0]), fields[1]) for number, fields in entries)
    is_known = is_unused == 1 or position.covers(since)
    first = messages[0][0] if messages else position.offset + 1
    return Kept(position, messages, is_known and first == since.offset + 1)


def _keys(key_prefix: str) -> tuple[int, str, str]:
    return 2, f"{key_prefix}:messages", f"{key_prefix}:meta"


def _new_epoch() -> str:
    return secrets.token_hex(4)


def payload_of(data: bytes) -> bytes:
    """Return the payload that is published for a message without a position."""
    return _MARK + b" " + data if data[:1] == _MARK else data


def decode_payload(payload: bytes) -> tuple[bytes, Position | None]:
    """Return the message of a payload, and its position if it has one.

    A payload that no process of ours has published is returned unchanged; it is not a valid envelope.
    """
    if payload[:1] != _MARK:
        return payload, None
    end = payload.find(b" ", 1, _MAX_HEAD_BYTES)
    if end == 1:
        return payload[2:], None
    if end < 0:
        return payload, None
    try:
        return payload[end + 1 :], Position.parse(payload[1:end].decode("ascii", "replace"))
    except TopicError:
        return payload, None
