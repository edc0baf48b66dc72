"""The settings of the server, for the memory and the file systems of the machine."""

import shutil
from contextlib import suppress
from pathlib import Path

from etl.embedded.sockets import SOCKET_PORT

_SETTINGS = """\
# Written at each start. Change a setting by `alter system`, which overrides this file.

# Only the owner of the folder of the socket can connect; over TCP, only this machine with the password.
unix_socket_directories = '{socket_folder}'
unix_socket_permissions = 0700
listen_addresses = '{listen_addresses}'
port = {port}

# An eighth of the available memory: the commands and the cache of the operating system need the rest.
shared_buffers = {shared_buffers_mb}MB
# With `try`, SIGBUS ends the server in a container without huge pages.
huge_pages = off
# The /dev/shm of a container is too small for a parallel query; files in the data folder are not.
dynamic_shared_memory_type = {dynamic_shared_memory_type}

# Loads write much without a pause: with fewer checkpoints, fewer full pages are written, and they are compressed.
max_wal_size = 4GB
checkpoint_timeout = 15min
checkpoint_warning = 0
wal_compression = on

# The log is about the server, never about data: it would quote a failed statement with its values.
log_min_messages = log
log_min_error_statement = panic
log_error_verbosity = terse
log_checkpoints = off
log_timezone = 'UTC'
timezone = 'UTC'
"""


def server_conf(port: int | None, socket_folder: Path) -> str:
    """Return the text of server.conf. Without a port the server listens only on its socket."""
    megabytes = _memory_bytes() // 8 // 1024**2
    shared_memory = Path("/dev/shm")  # noqa: S108 - only measured
    small = shared_memory.is_dir() and shutil.disk_usage(shared_memory).total < 256 * 1024**2
    return _SETTINGS.format(
        socket_folder=socket_folder,
        listen_addresses="" if port is None else "127.0.0.1",
        port=port or SOCKET_PORT,
        shared_buffers_mb=min(max(megabytes, 32), 2048),
        dynamic_shared_memory_type="mmap" if small else "posix",
    )


def _memory_bytes() -> int:
    """Return the bytes of memory that this machine or container may use."""
    import psutil  # noqa: PLC0415 - needed when the server starts, and takes some 5 ms of each command

    allowed = [psutil.virtual_memory().total]
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # no such cgroup, or the word `max`
            allowed.append(int(Path(limit).read_text()))
    return min(allowed)
