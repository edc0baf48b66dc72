"""What is done as one step on a Redis or Valkey server: events are accepted, and what is loaded is removed (Lua).

Keys of a server:

- `etl:collect:datasets`, a set: the datasets that have streams
- `etl:collect:{DATASET}`, a hash: the stream that takes the next event, its day and server, the bytes that are kept
- `etl:collect:{DATASET}:streams`, a list: the streams in the order in which they began
- `etl:collect:{DATASET}:ends`, a hash: stream -> the byte after its last event
- `etl:collect:{DATASET}:counts`, a hash: stream -> its events
- `etl:collect:{DATASET}:of:STREAM`, groups: the id is BYTE-1, the place of the first event;
  l: lines, t: time, e: events before
- `etl:collect:{DATASET}:key:DIGEST`, a text: the places of a request with an idempotency key, until it expires
"""

PREFIX = "etl:collect:"
DATASETS = f"{PREFIX}datasets"

# Keys: the hash, the streams, their ends, their counts, the datasets. Arguments: names, the server, limits; then for
# each request: digests of key and lines, lengths of the lines, the number of its parts, and each part: lines, how many.
# Returns the stream, the bytes kept, and for each request its first byte, or the text of an earlier one with its key.
ACCEPT = """
local prefix, dataset, day, proposed, server = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local head = redis.call('HMGET', KEYS[1], 'stream', 'day', 'server', 'kept')
local kept = tonumber(head[4] or '0')
if kept > tonumber(ARGV[6]) then
    return redis.error_reply('ETLFULL')
end
local stream, is_new = head[1], false
if not stream or day > head[2] or server ~= head[3] then
    stream, is_new = proposed, true
end
local before = is_new and 0 or tonumber(redis.call('HGET', KEYS[3], stream))
local events = is_new and 0 or tonumber(redis.call('HGET', KEYS[4], stream))
local time = redis.call('TIME')
local now = time[1] .. string.format('%03d', math.floor(tonumber(time[2]) / 1000))
local at, begun, parts, size, lines = before, before, {}, 0, 0
local function add()
    if size > 0 then
        local id, earlier = string.format('%.0f-1', begun), string.format('%.0f', events)
        redis.call('XADD', prefix .. ':of:' .. stream, id, 'l', table.concat(parts), 't', now, 'e', earlier)
        begun, events, parts, size, lines = at, events + lines, {}, 0, 0
    end
end
local places, i = {}, 9
while i <= #ARGV do
    local key, count = ARGV[i], tonumber(ARGV[i + 3])
    local known = key ~= '' and redis.call('GET', prefix .. ':key:' .. key)
    places[#places + 1] = known or at
    if key ~= '' and not known then
        local text = string.format('%s %.0f %s %s', stream, at, ARGV[i + 1], ARGV[i + 2])
        redis.call('SET', prefix .. ':key:' .. key, text, 'PX', ARGV[7])
    end
    if not known then
        for j = i + 4, i + 2 + 2 * count, 2 do
            parts[#parts + 1] = ARGV[j]
            size, at, lines = size + #ARGV[j], at + #ARGV[j], lines + tonumber(ARGV[j + 1])
            if size >= tonumber(ARGV[8]) then
                add()
            end
        end
    end
    i = i + 4 + 2 * count
end
add()
if at > before then
    if is_new then
        redis.call('HSET', KEYS[1], 'stream', stream, 'day', day, 'server', server)
        redis.call('RPUSH', KEYS[2], stream)
        redis.call('SADD', KEYS[5], dataset)
    end
    redis.call('HSET', KEYS[3], stream, string.format('%.0f', at))
    redis.call('HSET', KEYS[4], stream, string.format('%.0f', events))
    kept = redis.call('HINCRBY', KEYS[1], 'kept', at - before)
end
return {stream, kept, places}
"""

# Keys: the hash, the streams, their ends, their counts. Arguments: prefix, stream, the byte before which groups go.
# A group that ends after the byte stays. A stream without a group is removed when another one takes the next event.
REMOVE = """
local stream, cut = ARGV[2], tonumber(ARGV[3])
local key = ARGV[1] .. ':of:' .. stream
local finish = tonumber(redis.call('HGET', KEYS[3], stream) or '-1')
if finish < 0 then
    return 0
end
local function begin_of(found)
    return found[1] and tonumber(string.match(found[1][1], '^%d+'))
end
local begin = begin_of(redis.call('XRANGE', key, '-', '+', 'COUNT', 1)) or finish
local kept = finish
if cut < finish then
    kept = begin_of(redis.call('XREVRANGE', key, string.format('%.0f-1', cut), '-', 'COUNT', 1)) or begin
end
if kept > begin then
    redis.call('XTRIM', key, 'MINID', string.format('%.0f-1', kept))
    redis.call('HINCRBY', KEYS[1], 'kept', begin - kept)
end
if kept == finish and redis.call('HGET', KEYS[1], 'stream') ~= stream then
    redis.call('DEL', key)
    redis.call('HDEL', KEYS[3], stream)
    redis.call('HDEL', KEYS[4], stream)
    redis.call('LREM', KEYS[2], 0, stream)
end
return kept - begin
"""


def prefix_of(dataset: str) -> str:
    """Return how the keys of a dataset begin; they are together on one server of a cluster."""
    return f"{PREFIX}{{{dataset}}}"


def keys_of(dataset: str) -> tuple[str, str, str, str]:
    """Return the keys of a dataset: its hash, its streams, their ends, their counts."""
    prefix = prefix_of(dataset)
    return prefix, f"{prefix}:streams", f"{prefix}:ends", f"{prefix}:counts"
