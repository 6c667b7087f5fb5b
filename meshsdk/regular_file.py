"""Files that somebody else names: read whole where they are files, and no longer than they may be."""

from __future__ import annotations

import os
import stat

__all__ = ["read_regular"]

# Windows has neither.
_OPEN = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def read_regular(path: str, longest: int) -> bytes:
    """The content of a file.

    Args:
        path: Of the file. Nobody waits for the other end of a pipe, or reads a device that has no end.
        longest: In bytes.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no regular file, or too long; or no path. Nothing of its content is in the message.
    """
    with os.fdopen(os.open(path, _OPEN), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("is no regular file")
        content = file.read(longest + 1)
    if len(content) > longest:
        raise ValueError(f"has more than {longest} bytes")
    return content
