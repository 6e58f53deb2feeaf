"""The Lua scripts, and commands in Redis' wire form (RESP2 arrays of bulk strings).

Every script has the effect of what asgi_redis 1.4.3 does in several steps: the same keys with the same contents and lives.  They keep
to commands of Redis 3.2 and are deterministic, so that they also replicate as scripts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

#: A command's argument.
Argument = bytes | str | int | float


def pack(*arguments: Argument) -> bytes:
    """The command ``arguments`` as it goes over the wire."""
    parts = [b"*%d\r\n" % len(arguments)]
    for argument in arguments:
        data = argument if isinstance(argument, bytes) else str(argument).encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(parts)


def pack_arguments(*arguments: Argument) -> bytes:
    """A piece of a command: ``arguments`` without the count in front."""
    return pack(*arguments).partition(b"\r\n")[2]


class Script:
    """A Lua script, called by its digest and loaded once per connection."""

    __slots__ = ("load", "sha")

    def __init__(self, source: str) -> None:
        code = "\n".join(line.strip() for line in source.strip().splitlines()).encode()
        self.sha = hashlib.sha1(code, usedforsecurity=False).hexdigest().encode()
        #: The packed command that makes the script known to the server.
        self.load = pack(b"SCRIPT", b"LOAD", code)

    def head(self, keys: int, arguments: int) -> bytes:
        """The part of a call before the first key, for this number of keys and arguments."""
        return b"*%d\r\n$7\r\nEVALSHA\r\n$40\r\n%b\r\n%b" % (3 + keys + arguments, self.sha, pack_arguments(keys))

    def call(self, keys: Sequence[str], *arguments: Argument) -> bytes:
        """The packed call with ``keys`` and ``arguments``."""
        return pack(b"EVALSHA", self.sha, len(keys), *keys, *arguments)


#: Store a message and count it.  Answers 1, or 0 for a full channel.
#: KEYS: message, list, prefix of the channel's counters, prefix of the global counters, and for a message that is kept until it is
#: acknowledged the hash of those that are not yet recorded.
#: ARGV: body, expiry, capacity, life of the channel's counters, life of the global counters.
SEND = Script("""
    local counter = 'channel_full_count'
    local stored = 0
    if redis.call('llen', KEYS[2]) < tonumber(ARGV[3]) then
        redis.call('setex', KEYS[1], ARGV[2], ARGV[1])
        stored = redis.call('rpush', KEYS[2], KEYS[1])
        redis.call('expire', KEYS[2], ARGV[2] + 1)
        if KEYS[5] then
            redis.call('hset', KEYS[5], KEYS[1], KEYS[2])
            redis.call('expire', KEYS[5], ARGV[2] + 1)
        end
        counter = 'messages_count'
    end
    redis.call('incr', KEYS[3] .. counter)
    redis.call('expire', KEYS[3] .. counter, ARGV[4])
    redis.call('incr', KEYS[4] .. counter)
    redis.call('expire', KEYS[4] .. counter, ARGV[5])
    return stored
""")

#: Store several messages for one list and count them, as :data:`SEND` does one after the other.  Answers {length of the list before, number
#: of those that were stored}: the first ones, as many as there is room for.
#: KEYS: list, prefix of the channel's counters, prefix of the global counters, and for messages that are kept until they are acknowledged
#: the hash of those that are not yet recorded.
#: ARGV: expiry, capacity, life of the channel's counters, life of the global counters, what the messages' keys begin with, bodies.
SEND_ALL = Script("""
    local length = redis.call('llen', KEYS[1])
    local number = #ARGV - 5
    local stored = math.max(0, math.min(number, ARGV[2] - length))
    local keys = {}
    for i = 1, stored do
        keys[i] = ARGV[5] .. string.format('%08x', i)
        redis.call('setex', keys[i], ARGV[1], ARGV[5 + i])
        if KEYS[4] then
            redis.call('hset', KEYS[4], keys[i], KEYS[1])
        end
    end
    if stored > 0 then
        redis.call('rpush', KEYS[1], unpack(keys))
        redis.call('expire', KEYS[1], ARGV[1] + 1)
        if KEYS[4] then
            redis.call('expire', KEYS[4], ARGV[1] + 1)
        end
    end
    local function count(counter, times)
        if times > 0 then
            redis.call('incrby', KEYS[2] .. counter, times)
            redis.call('expire', KEYS[2] .. counter, ARGV[3])
            redis.call('incrby', KEYS[3] .. counter, times)
            redis.call('expire', KEYS[3] .. counter, ARGV[4])
        end
    end
    count('messages_count', stored)
    count('channel_full_count', number - stored)
    return {length, stored}
""")

#: Take messages out of lists.  Answers {marker, position of the list, body, milliseconds that it had left, position, body …}; expired
#: messages are passed over.  A key of another type than a list holds no messages and would refuse all that come: it is deleted, and its
#: body is nil.
#: KEYS: lists.
#: ARGV: most messages, bytes after which no further ones are taken, marker's key or '', marker for a Redis without one, its life,
#: key of a message that was already popped or '', its list's position.
#: The marker may be refused for want of memory; receiving goes on without it.
TAKE = Script("""
    redis.replicate_commands()
    local limit = tonumber(ARGV[1])
    local bytes = tonumber(ARGV[2])
    local reply = {''}
    if ARGV[3] ~= '' then
        local marker = redis.call('get', ARGV[3])
        if not marker then
            marker = ARGV[4]
            redis.pcall('setex', ARGV[3], ARGV[5], marker)
        else
            redis.call('expire', ARGV[3], ARGV[5])
        end
        reply[1] = marker
    end
    local function consume(position, keys)
        local bodies = redis.call('mget', unpack(keys))
        for i = 1, #keys do
            local body = bodies[i]
            if body then
                local size = #reply
                reply[size + 1] = position
                reply[size + 2] = body
                reply[size + 3] = redis.call('pttl', keys[i])
                limit = limit - 1
                bytes = bytes - #body
            end
        end
        redis.call('del', unpack(keys))
    end
    if ARGV[6] ~= '' then
        consume(tonumber(ARGV[7]), {ARGV[6]})
    end
    for position = 1, #KEYS do
        while limit > 0 and bytes > 0 do
            local keys = redis.pcall('lrange', KEYS[position], 0, math.min(limit, 16) - 1)
            if keys.err then
                if redis.call('type', KEYS[position]).ok ~= 'list' then
                    redis.call('del', KEYS[position])
                    local size = #reply
                    reply[size + 1] = position
                    reply[size + 2] = false
                    reply[size + 3] = 0
                end
                break
            end
            if #keys == 0 then
                break
            end
            redis.call('ltrim', KEYS[position], #keys, -1)
            consume(position, keys)
        end
    end
    return reply
""")

#: Give a popped message back to the head of its list.  KEYS: list.  ARGV: message key, expiry.
RETURN = Script("""
    redis.call('lpush', KEYS[1], ARGV[1])
    redis.call('expire', KEYS[1], ARGV[2] + 1)
    return 1
""")

#: Store messages again that :data:`TAKE` took, at the head of their list, in their order and for the time that they had left.
#: KEYS: list.  ARGV: expiry, then of each message, the oldest first: key, body, milliseconds left.
PUT_BACK = Script("""
    local stored = 0
    for i = #ARGV - 2, 2, -3 do
        local life = tonumber(ARGV[i + 2])
        if life < 0 then
            life = ARGV[1] * 1000
        end
        if life > 0 then
            redis.call('psetex', ARGV[i], life, ARGV[i + 1])
            redis.call('lpush', KEYS[1], ARGV[i])
            stored = stored + 1
        end
    end
    redis.call('expire', KEYS[1], ARGV[1] + 1)
    return stored
""")

#: Take messages out of lists and record those that are to be acknowledged, which stay where they are.  Answers like :data:`TAKE`, without a
#: marker, and with the message's key in place of the milliseconds where it is recorded.
#: KEYS: lists.
#: ARGV: most messages, bytes after which no further ones are taken, hash of this process' records, hash of messages that are not recorded,
#: number of this take, for each list ``1`` where its messages are to be acknowledged, key of a message that was already popped or '',
#: its list's position.
CLAIM = Script("""
    redis.replicate_commands()
    local limit = tonumber(ARGV[1])
    local bytes = tonumber(ARGV[2])
    local reply = {''}
    local place = 0
    local function consume(position, keys)
        local recorded = string.sub(ARGV[6], position, position) == '1'
        local bodies = redis.call('mget', unpack(keys))
        for i = 1, #keys do
            local body = bodies[i]
            if body then
                local size = #reply
                reply[size + 1] = position
                reply[size + 2] = body
                if recorded then
                    place = place + 1
                    redis.call('hset', ARGV[3], keys[i], ARGV[5] .. ' ' .. place .. ' ' .. KEYS[position])
                    reply[size + 3] = keys[i]
                else
                    reply[size + 3] = redis.call('pttl', keys[i])
                    redis.call('del', keys[i])
                end
                limit = limit - 1
                bytes = bytes - #body
            end
        end
        if recorded then
            redis.call('hdel', ARGV[4], unpack(keys))
        end
    end
    if ARGV[7] ~= '' then
        consume(tonumber(ARGV[8]), {ARGV[7]})
    end
    for position = 1, #KEYS do
        while limit > 0 and bytes > 0 do
            local keys = redis.pcall('lrange', KEYS[position], 0, math.min(limit, 16) - 1)
            if keys.err then
                if redis.call('type', KEYS[position]).ok ~= 'list' then
                    redis.call('del', KEYS[position])
                    local size = #reply
                    reply[size + 1] = position
                    reply[size + 2] = false
                    reply[size + 3] = false
                end
                break
            end
            if #keys == 0 then
                break
            end
            redis.call('ltrim', KEYS[position], #keys, -1)
            consume(position, keys)
        end
    end
    return reply
""")

#: Put recorded messages back at the head of their lists, in the order in which they were taken; those that have expired are forgotten.
_RESTORE = """
    redis.replicate_commands()
    local restored = 0
    local function put_back(key, list, unclaimed, expiry)
        if redis.call('exists', key) == 1 then
            redis.call('lpush', list, key)
            redis.call('expire', list, expiry + 1)
            redis.call('hset', unclaimed, key, list)
            redis.call('expire', unclaimed, expiry + 1)
            restored = restored + 1
        end
    end
    local function restore(taken, unclaimed, expiry, wanted)
        local records = redis.call('hgetall', taken)
        local found = {}
        for i = 1, #records, 2 do
            local number, place, list = string.match(records[i + 1], '^(%d+) (%d+) (.*)$')
            if not wanted or wanted[records[i]] or wanted[number] then
                found[#found + 1] = {tonumber(number), tonumber(place), list, records[i]}
            end
        end
        table.sort(found, function(a, b)
            if a[1] == b[1] then
                return a[2] > b[2]
            end
            return a[1] > b[1]
        end)
        for _, record in ipairs(found) do
            redis.call('hdel', taken, record[4])
            put_back(record[4], record[3], unclaimed, expiry)
        end
    end
"""

#: Put some of a process' recorded messages back.  Answers how many.
#: KEYS: hash of its records, hash of messages that are not recorded.  ARGV: expiry, then keys of messages and numbers of takes.
RELEASE = Script(
    _RESTORE
    + """
    local wanted = {}
    for i = 2, #ARGV do
        wanted[ARGV[i]] = true
    end
    restore(KEYS[1], KEYS[2], ARGV[1], wanted)
    return restored
"""
)

#: End a process' lease and put back what it did not acknowledge.  Answers how many messages.
#: KEYS: set of processes, its records, hash of messages that are not recorded, its lease.  ARGV: its name, expiry.
BYE = Script(
    _RESTORE
    + """
    restore(KEYS[2], KEYS[3], ARGV[2])
    redis.call('srem', KEYS[1], ARGV[1])
    redis.call('del', KEYS[4])
    return restored
"""
)

#: Renew a process' lease, and put back what processes without one had taken, and what a wait popped that ended before it took.  Answers how
#: many messages.
#: KEYS: set of processes, hash of messages that are not recorded, hash of suspects.
#: ARGV: the process' name, what the keys of leases begin with, what those of records begin with, the lease in milliseconds, milliseconds
#: between two looks at the messages that are not recorded, expiry.
TICK = Script(
    _RESTORE
    + """
    redis.call('set', ARGV[2] .. ARGV[1], '1', 'px', ARGV[4])
    redis.call('sadd', KEYS[1], ARGV[1])
    for _, name in ipairs(redis.call('smembers', KEYS[1])) do
        if redis.call('exists', ARGV[2] .. name) == 0 then
            restore(ARGV[3] .. name, KEYS[2], ARGV[6])
            redis.call('srem', KEYS[1], name)
        end
    end
    if not redis.call('set', KEYS[3] .. ':look', '1', 'px', ARGV[5], 'nx') then
        return restored
    end
    local sent = redis.call('hgetall', KEYS[2])
    local listed = {}
    local suspects = {}
    for i = 1, #sent, 2 do
        local key = sent[i]
        local list = sent[i + 1]
        if not listed[list] then
            listed[list] = {}
            for _, other in ipairs(redis.call('lrange', list, 0, -1)) do
                listed[list][other] = true
            end
        end
        if not listed[list][key] then
            if redis.call('exists', key) == 0 then
                redis.call('hdel', KEYS[2], key)
            elseif redis.call('hexists', KEYS[3], key) == 1 then
                put_back(key, list, KEYS[2], ARGV[6])
            else
                suspects[#suspects + 1] = key
            end
        end
    end
    redis.call('del', KEYS[3])
    for _, key in ipairs(suspects) do
        redis.call('hset', KEYS[3], key, '1')
    end
    if #suspects > 0 then
        redis.call('pexpire', KEYS[3], ARGV[4] * 3)
    end
    return restored
"""
)

#: Members above which :data:`SEND_GROUP` leaves the group alone, so that one script never occupies Redis for long.
GROUP_SCRIPT_LIMIT = 5000

#: Send one message to many channels.  Answers -1 for a group with too many members (nothing was sent then), else {number stored, number
#: of members that are no channel names, list, number of messages that it had no room for, list, number …}.  Members that are no names are
#: taken out of the group.  A process-specific list, which all clients of a server share, takes some messages per member beyond its
#: capacity: its reader cannot come in between, so the plain capacity would cut a large group off; asgi_redis sends one by one and hopes.
#: KEYS: the group's set, or none to send to the channels in ARGV.
#: ARGV: open body (see :func:`wire.open_body`), body, expiry, prefix, prefix of counters, 24 hexadecimal digits for message keys,
#: life of a channel's counters, life of the global counters, score up to which memberships are over, capacity, messages per member beyond
#: it, then with no KEYS: channel, capacity, channel, capacity …
SEND_GROUP = Script(
    """
    local names = {}
    local capacities = {}
    local bad = 0
    if #KEYS == 1 then
        redis.call('zremrangebyscore', KEYS[1], 0, ARGV[9])
        if redis.call('zcard', KEYS[1]) > GROUP_LIMIT then
            return -1
        end
        names = redis.call('zrange', KEYS[1], 0, -1)
    else
        for i = 12, #ARGV, 2 do
            names[#names + 1] = ARGV[i]
            capacities[#names] = ARGV[i + 1]
        end
    end
    local places = {}
    local members = {}
    for i, name in ipairs(names) do
        local cut, mark = string.match(name, '^[%w%-_.]+()([!?]?)[%w%-_.]*$')
        if not cut or #name > 99 then
            bad = bad + 1
            if #KEYS == 1 then
                redis.call('zrem', KEYS[1], name)
            end
        elseif mark == '!' then
            local list = string.sub(name, 1, cut)
            places[i] = list
            members[list] = (members[list] or 0) + 1
        else
            places[i] = name
        end
    end
    local lists = {}
    local order = {}
    for i, name in ipairs(names) do
        local list = places[i]
        local entry = list and lists[list]
        if list and not entry then
            local capacity = tonumber(capacities[i])
            if not capacity then
                capacity = ARGV[10] + ARGV[11] * (members[list] or 0)
            end
            local length = redis.pcall('llen', ARGV[4] .. list)
            if type(length) ~= 'number' then
                length = capacity
            end
            entry = {room = capacity - length, keys = {}, full = 0, shared = members[list]}
            lists[list] = entry
            order[#order + 1] = list
        end
        if entry and entry.room <= 0 then
            entry.full = entry.full + 1
        elseif entry then
            local body = ARGV[2]
            if entry.shared then
                local head = string.char(160 + #name)
                if #name > 31 then
                    head = string.char(217, #name)
                end
                body = ARGV[1] .. head .. name
            end
            local key = ARGV[4] .. ARGV[6] .. string.format('%08x', i)
            redis.call('setex', key, ARGV[3], body)
            entry.room = entry.room - 1
            entry.keys[#entry.keys + 1] = key
        end
    end
    local function count(channel, counter, number, life)
        if number > 0 then
            local key = ARGV[5] .. channel .. ':' .. counter
            redis.call('incrby', key, number)
            redis.call('expire', key, life)
        end
    end
    local sent = 0
    local full = 0
    local reply = {0, bad}
    for _, list in ipairs(order) do
        local entry = lists[list]
        local key = ARGV[4] .. list
        for i = 1, #entry.keys, 1000 do
            redis.call('rpush', key, unpack(entry.keys, i, math.min(i + 999, #entry.keys)))
        end
        if #entry.keys > 0 then
            redis.call('expire', key, ARGV[3] + 1)
        end
        count(list, 'messages_count', #entry.keys, ARGV[7])
        count(list, 'channel_full_count', entry.full, ARGV[7])
        sent = sent + #entry.keys
        full = full + entry.full
        if entry.full > 0 then
            reply[#reply + 1] = list
            reply[#reply + 1] = entry.full
        end
    end
    count('#global#', 'messages_count', sent, ARGV[8])
    count('#global#', 'channel_full_count', full, ARGV[8])
    reply[1] = sent
    return reply
""".replace("GROUP_LIMIT", str(GROUP_SCRIPT_LIMIT))
)

#: All scripts, for loading them together.
SCRIPTS = (SEND, SEND_ALL, TAKE, RETURN, PUT_BACK, SEND_GROUP)
#: Those that only a reliable layer calls, which are loaded when they are called first.
RELIABLE_SCRIPTS = (CLAIM, RELEASE, BYE, TICK)
