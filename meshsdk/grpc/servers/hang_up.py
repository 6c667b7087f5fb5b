"""Ending connections of grpc's servers, for which grpc has no way: a peer that is trusted no more must come again.

The connection is found among the system's by both of its ends, and its socket among this process's by the inode; grpc
then sees that it has ended. On Linux; elsewhere nothing is found.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Iterator

from ...inbound.connection import Address, parse_address

__all__ = ["hang_up"]

_TABLES = ("/proc/net/tcp", "/proc/net/tcp6")
_DESCRIPTORS = "/proc/self/fd"


def hang_up(source_ip: str, source_port: int, port: int) -> bool:
    """End a connection that this process has accepted, and say whether it was found. From any thread.

    Args:
        source_ip, source_port: Its peer's end.
        port: This side's.
    """
    source = parse_address(source_ip)
    if source is None:
        return False
    wanted = {f"socket:[{inode}]" for inode in _inodes(source, source_port, port)}
    with contextlib.suppress(OSError):
        for name in os.listdir(_DESCRIPTORS) if wanted else ():
            with contextlib.suppress(OSError):
                if os.readlink(f"{_DESCRIPTORS}/{name}") in wanted:
                    # A copy: grpc may close its own meanwhile, and the number may be another's then.
                    with socket.socket(fileno=os.dup(int(name))) as connection:
                        if connection.getpeername()[1] == source_port and connection.getsockname()[1] == port:
                            connection.shutdown(socket.SHUT_RDWR)
                            return True
    return False


def _inodes(source: Address, source_port: int, port: int) -> Iterator[str]:
    for table in _TABLES:
        with contextlib.suppress(OSError), open(table, encoding="ascii") as lines:
            next(lines)
            for line in lines:
                _, local, remote, *_, inode = line.split()[:10]
                if _port(remote) == source_port and _port(local) == port and _address(remote) == source:
                    yield inode


def _port(end: str) -> int:
    return int(end.rpartition(":")[2], 16)


def _address(end: str) -> Address | None:
    """The kernel writes words of four bytes, each in the machine's order."""
    raw = bytes.fromhex(end.partition(":")[0])
    words = [raw[place : place + 4] for place in range(0, len(raw), 4)]
    packed = b"".join(word[::-1] if sys.byteorder == "little" else word for word in words)
    return parse_address(socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed))
