"""Processing parameters and their reasons, in one place. Sizes are bytes, times are seconds."""

# Larger reads gain nothing: the JSON scanner is the limit, and a larger window only costs memory.
READ_BYTES = 1 << 18

# The beginning of a source that shows its compression.
MAGIC_BYTES = 8

# An object store answers a request for each block: a smaller one waits more, a larger one costs memory.
STORE_BLOCK_BYTES = 8 << 20

# A server that sends nothing for so long has lost the connection. In this time an answer must begin, and then each
# PROGRESS_BYTES of its content must come, which is 1 kB/s: a server that sends a byte now and then would never end.
NETWORK_SECONDS = 60.0
PROGRESS_BYTES = 1 << 16

# A worker reads a range beside its load: the most that it takes of a connection at once, because each read waits for
# the interpreter. More than a socket holds gains nothing.
RANGE_READ_BYTES = 1 << 20

# Unknown members are counted by name: the shortest names, cut at this length, so that memory and the ledger stay small
# where the names are data themselves. The order is a part of the format of the ledger.
UNKNOWN_NAMES = 100
UNKNOWN_NAME_LENGTH = 100

# At most so many different unknown members of a record are counted by name; the others are counted without a name.
UNKNOWN_NAMES_OF_RECORD = 10_000

# Records are decoded this many bytes at a time: half or twice as many take longer, because of the cache.
BLOCK_BYTES = 1 << 17

# The most that is handed to the connection at once: libpq's buffer stays as large as its largest content.
COPY_BYTES = 1 << 17

# When the next batch is ready, this many parts of the batch after it are prepared: blocks that are cut or converted.
# Then there is something to send or to do when one side is slower for a moment.
PARTS_BEYOND = 32

# The first bytes of a source, which show its line ends and, in ledgers of old, identify it.
HEAD_BYTES = 1 << 20

# A source has a mark for each cell of this size. It is a part of the format of the ledger: it never changes.
CELL_BYTES = 1 << 18

# Pieces that are kept until their run is known. A piece that is needed and was not kept is read again.
KEPT_BYTES = 8 << 20

# The fixed cost of a batch, 3 ms, is then a twentieth of its rows; a retry or a failed batch is still small.
BATCH_ROWS = 20_000

# The first batch is smaller, and each may be twice as large as the one before it: the server begins early.
FIRST_BATCH_ROWS = 1 << 11

# A batch of large records ends here although it holds fewer than BATCH_ROWS, so that memory stays constant.
PIECE_BYTES = 12 << 20

# Rows of one table and batch beyond this are kept in a temporary file: columns of a record repeat for each child.
ROWS_BYTES = 32 << 20

# A record larger than this ends the source: more likely a file without separators than a record.
MAX_RECORD_BYTES = 64 << 20

# A record whose objects and arrays are nested deeper is rejected. No limit would mean quadratic time somewhere.
MAX_NESTING = 10_000

# A decoded record takes some 40 times its bytes. Of a larger record, values of VALUE_BYTES stay text, and the elements
# of an array are decoded one after the other.
WHOLE_RECORD_BYTES = 1 << 20
VALUE_BYTES = 1 << 16

# Decoders recurse: levels that are decoded at a time. A value below them stays text, so that nothing else recurses.
LAYER_LEVELS = 200

# Starting a process takes as long as loading this much; beyond four processes PostgreSQL is the limit.
BYTES_PER_WORKER = 64 << 20
MAX_DEFAULT_WORKERS = 4

# A share of rejected records is judged during a load from this many records on, and at its end from fewer on: one bad
# record among few says nothing about the file. Runs that become visible at once are judged at their end at any size.
SHARE_RECORDS = 10_000
SHARE_RECORDS_AT_END = 101

# A share of deleted rows is judged from this many rows on: a small table may change as a whole.
SHARE_ROWS = 1_000

# Files of the failed store that may wait for the disk before the load waits for them.
FAILURES_IN_FLIGHT = 16

STORE_WRITERS = 4
"""Failures that are written at once to an object store, each in two requests; a disk takes one after the other."""

RETRY_ATTEMPTS = 6
RETRY_BASE_SECONDS = 0.5
RETRY_CAP_SECONDS = 30.0

# A restart of a server takes some seconds, a failover half a minute.
RETRY_FOR_SECONDS = 60.0

# How COPY's text format writes null.
NULL_TEXT = "\\N"

# The last of so many failed batches in a row ends the load: its cause is not one of single batches.
MAX_FAILED_IN_A_ROW = 3

# Whole files up to this size are loaded many at a time: their own commit and statements would take longer than their
# rows. Of a compressed file, the content may be twice as large.
SMALL_FILE_BYTES = 1 << 20

# One transaction looks up and loads at most so many files, and about so many bytes. More would gain nothing, and the
# loader keeps the files of a group in memory.
GROUP_FILES = 200
GROUP_BYTES = 8 << 20

# So many threads read the small files of a network: mostly they wait for answers. So many files are read ahead.
READERS = 8
READ_AHEAD = 32
