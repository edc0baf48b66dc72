"""The settings of the server, from the memory and the file systems that it finds."""

import shutil
from contextlib import suppress
from pathlib import Path

import psutil

from etl.embedded.sockets import SOCKET_PORT

_SETTINGS = """\
# Written at each start. Change a setting by `alter system`, which beats this file.

# Who can connect: the owner of the socket's folder; over TCP this machine, with the password.
unix_socket_directories = '{socket_folder}'
unix_socket_permissions = 0700
listen_addresses = '{listen_addresses}'
port = {port}

# An eighth of the memory that we may use: commands and the operating system's cache need the rest.
shared_buffers = {shared_buffers_mb}MB
# `try` ends the server by SIGBUS in a container that is allowed no huge pages.
huge_pages = off
# A container's /dev/shm is too small for a parallel query; files in the data folder are not.
dynamic_shared_memory_type = {dynamic_shared_memory_type}

# Loads write much and steadily: fewer checkpoints write fewer full pages, and these compressed.
max_wal_size = 4GB
checkpoint_timeout = 15min
checkpoint_warning = 0
wal_compression = on

# The log tells of the server, never of data: a failed statement would be quoted with its values.
log_min_messages = log
log_min_error_statement = panic
log_error_verbosity = terse
log_checkpoints = off
log_timezone = 'UTC'
timezone = 'UTC'
"""


def server_conf(port: int | None, socket_folder: Path) -> str:
    """Return the text of server.conf; without a port the server listens on its socket only."""
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
    """Return the memory that this machine or container allows."""
    allowed = [psutil.virtual_memory().total]
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # no such cgroup, or the word `max`
            allowed.append(int(Path(limit).read_text()))
    return min(allowed)
