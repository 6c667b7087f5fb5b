"""What of gRPC's a process must not take apart, after a fork and at its own end, is kept instead.

grpc-core does not survive a fork: in the child its threads are gone, and the destructor of a channel, a call or a
server waits for them, or crashes. So nothing is destroyed there that the parent has left: what this library lets go of
in a child is kept (`keep`), and Python's collector leaves alone what was garbage when the fork came (`gc.freeze`).

At the end of a process grpc's threads are stopped by the interpreter, since they are daemons. One that holds the lock
of a call leaves it locked, and the destructor of that call (grpcio's `_MultiThreadedRendezvous.__del__`), or of its
channel, waits for ever: with a stream left open one end in a hundred did not come, and a Mesh on xDS has one.
Nothing is lost without destructors, since connections close with the process.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import os
import sys
import weakref
from typing import Any, Protocol

__all__ = ["begin_anew_after_fork", "keep"]


class _Forked(Protocol):
    def after_fork(self) -> None: ...


_beginners: weakref.WeakSet[_Forked] = weakref.WeakSet()
_kept: list[object] = []
_was_collecting: list[bool] = []


def keep(one: object) -> None:
    """Have an object outlive everything in this process, the end of the interpreter too."""
    if one is None:
        return
    _kept.append(one)
    with contextlib.suppress(AttributeError):
        # Lists of modules are emptied at the end; CPython counts this reference for ever.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(one))


def begin_anew_after_fork(one: _Forked) -> None:
    """Have `one.after_fork()` called in each child that is forked, as long as it is used."""
    _beginners.add(one)


def _at_exit() -> None:
    channels = sys.modules.get("grpc._channel")
    if channels is None:
        return
    destructible: set[Any] = {
        one for one in vars(channels).values() if isinstance(one, type) and hasattr(one, "__del__")
    }
    for one in gc.get_objects():
        if type(one) in destructible:
            keep(one)


def _before() -> None:
    _was_collecting.append(gc.isenabled())
    gc.disable()


def _collect_again() -> None:
    if _was_collecting.pop():
        gc.enable()


def _in_child() -> None:
    if "grpc._cython.cygrpc" in sys.modules:
        gc.freeze()
    _collect_again()
    for one in list(_beginners):
        one.after_fork()


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_collect_again, after_in_child=_in_child)
