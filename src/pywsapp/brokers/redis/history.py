"""How the history of a topic is kept in Redis: two keys, two scripts, and a position in front of what is published.

The messages are a stream, each under its offset. Beside it a hash has the epoch and the offset of the last message,
and for each process that published the count of its last message, by which a repeated one is known. The processes that
have been silent longest are forgotten when they are many. A script runs alone, so whoever reads the history and listens
misses nothing between the two. Both keys, and on a cluster the channel, have the topic in braces, so that they are on
one node.

The messages expire so many seconds after the last one; the hash lives `REMEMBERED` times as long, since with it a
client can be told that nothing was missed.

A server that was restarted from disk, and a replica that took over, may have lost the last messages without knowing.
Its offsets would then be given out a second time. So the hash has the server's run id as well, which is another one
after that, and when it differs a new epoch begins. Its offsets go on from those before. Who asks for what came behind a
position of another epoch is given what came in this one, for the rest he may have, and is not told that it was all.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from typing import Any

from pywsapp.brokers.base import Keep, Kept, Position
from pywsapp.exceptions import TopicError
from pywsapp.topics.history.memory_store import REMEMBERED, UNUSED_SECONDS

#: Processes whose last message a topic remembers; when there are more, the half that is silent longest is forgotten.
MAX_PUBLISHERS = 1000
#: Numbers in Lua are exact up to here.
_MAX_OFFSET = 2**53
#: In front of a payload with a position, and of a payload that begins with this byte itself; no envelope does.
_MARK = b"\0"
_MAX_HEAD = 80

_ENTER = """
local messages, meta = KEYS[1], KEYS[2]
local known = redis.call('HMGET', meta, 'run', 'epoch', 'offset', 'before')
local epoch, offset, before = known[2], known[3], known[4]
if not known[1] then
  epoch, offset, before = ARGV[2], '0', '0'
  redis.call('DEL', messages)
  redis.call('HSET', meta, 'run', ARGV[1], 'epoch', epoch, 'offset', offset, 'before', before)
elseif known[1] ~= ARGV[1] then
  epoch, before = ARGV[2], offset
  redis.call('HSET', meta, 'run', ARGV[1], 'epoch', epoch, 'before', before)
end
"""

_APPEND = f"""{_ENTER}
local publisher, count, size, ms, longer, data = ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local seen = redis.call('HGET', meta, 'by ' .. publisher)
if seen and tonumber(string.match(seen, '^%d+')) >= tonumber(count) then return false end
offset = string.format('%.0f', redis.call('HINCRBY', meta, 'offset', 1))
redis.call('HSET', meta, 'by ' .. publisher, count .. ' ' .. offset)
redis.call('XADD', messages, 'MAXLEN', size, offset .. '-0', 'm', data)
redis.call('PEXPIRE', messages, ms)
redis.call('PEXPIRE', meta, longer)
if redis.call('HLEN', meta) > {MAX_PUBLISHERS} + 4 then
  local all, publishers = redis.call('HGETALL', meta), {{}}
  for i = 1, #all, 2 do
    if string.sub(all[i], 1, 3) == 'by ' then
      publishers[#publishers + 1] = {{all[i], tonumber(string.match(all[i + 1], '%d+$'))}}
    end
  end
  table.sort(publishers, function(a, b) return a[2] < b[2] end)
  for i = 1, #publishers / 2 do redis.call('HDEL', meta, publishers[i][1]) end
end
redis.call(ARGV[9], ARGV[10], '\\0' .. offset .. '-' .. epoch .. ' ' .. data)
return offset
"""

_READ = f"""{_ENTER}
if not known[1] then redis.call('PEXPIRE', meta, {UNUSED_SECONDS * 1000:.0f}) end
if ARGV[3] == '' then return {{epoch, offset, {{}}}} end
local behind = before
if ARGV[4] == epoch and tonumber(ARGV[3]) <= tonumber(offset) then behind = ARGV[3] end
return {{epoch, offset, redis.call('XRANGE', messages, string.format('%.0f', tonumber(behind) + 1), '+')}}
"""

_APPEND_SHA = hashlib.sha1(_APPEND.encode(), usedforsecurity=False).hexdigest()

Command = Sequence["str | bytes | int"]


def append_command(
    base: str, run: bytes, keep: Keep, data: bytes, publish: tuple[str, bytes], *, loaded: bool
) -> Command:
    """Give the command that keeps a message and publishes it, or does nothing if it was there.

    Args:
        base: what the names of the topic's keys begin with.
        run: the server's run id.
        keep: how it is kept.
        data: the message.
        publish: the command that publishes, and the channel.
        loaded: whether the server has the script already.
    """
    publisher, count = keep.id
    ms = max(1, round(keep.seconds * 1000))
    script = ("EVALSHA", _APPEND_SHA) if loaded else ("EVAL", _APPEND)
    arguments = (publisher, count, keep.size, ms, ms * REMEMBERED, data, *publish)
    return (*script, *_keys(base), run, _new_epoch(), *arguments)


def read_command(base: str, run: bytes, since: Position | None) -> Command:
    """Give the command that reads what is kept behind a position."""
    behind = ("", "") if since is None else (str(min(since.offset, _MAX_OFFSET)), since.epoch)
    return ("EVAL", _READ, *_keys(base), run, _new_epoch(), *behind)


def read_answer(answer: Any, since: Position | None) -> Kept:
    """Give what the answer to `read_command` says."""
    epoch, offset, entries = answer
    position = Position(epoch.decode(), int(offset))
    if since is None:
        return Kept(position, (), True)
    messages = tuple((int(number.partition(b"-")[0]), fields[1]) for number, fields in entries)
    known = since.epoch == position.epoch and since.offset <= position.offset
    return Kept(position, messages, known and len(messages) == position.offset - since.offset)


def _keys(base: str) -> tuple[int, str, str]:
    return 2, f"{base}:messages", f"{base}:meta"


def _new_epoch() -> str:
    return secrets.token_hex(4)


def plain_payload(data: bytes) -> bytes:
    """Give what is published for a message without a position."""
    return _MARK + b" " + data if data[:1] == _MARK else data


def read_payload(payload: bytes) -> tuple[bytes, Position | None]:
    """Give the message and its position; what is neither comes back as it is, and is no envelope."""
    if payload[:1] != _MARK:
        return payload, None
    end = payload.find(b" ", 1, _MAX_HEAD)
    if end == 1:
        return payload[2:], None
    if end < 0:
        return payload, None
    try:
        return payload[end + 1 :], Position.parse(payload[1:end].decode("ascii", "replace"))
    except TopicError:
        return payload, None
