"""What a call may have to wait for before it goes out, for threads and for asyncio alike.

The configuration of its target, when that has not been asked for before; and the delay of a fault. Neither outlasts the
call's own time.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable

import grpc

from ... import deadline
from ...control import Control
from ...errors import NoRouteError, RequestError
from ...exchange import LocalReply
from ...routing.compiled_filters import FaultTally
from .call_error import MeshRpcError
from .outgoing_call import OutgoingCall

__all__ = ["hold", "hold_async", "not_settled", "settle", "settle_async"]

# A little more than the time after which a resource counts as missing (Envoy docs, xds_protocol: 15 seconds).
_LONGEST_SECONDS = 20.0


def settle(control: Control, names: tuple[str, ...], timeout: float | None, wait_for_ready: bool | None) -> None:
    """Wait until listeners are here or known to be missing.

    Args:
        control: The Mesh's.
        names: Of the listeners.
        timeout: The call's, in seconds.
        wait_for_ready: The call's; without it configuration is not waited for for ever.

    Raises:
        MeshRpcError: It did not come in time, or the Mesh is closed.
    """
    settled = threading.Event()
    seconds = _seconds(timeout, wait_for_ready)
    cancel = _when_settled(control, names, settled.set)
    try:
        if not settled.wait(seconds):
            raise _too_late(control, names, seconds)
    finally:
        cancel()


async def settle_async(
    control: Control, names: tuple[str, ...], timeout: float | None, wait_for_ready: bool | None
) -> None:
    """`settle` for asyncio."""
    loop, settled = asyncio.get_running_loop(), asyncio.Event()
    seconds = _seconds(timeout, wait_for_ready)
    cancel = _when_settled(control, names, lambda: _wake(loop, settled))
    try:
        async with asyncio.timeout(seconds):
            await settled.wait()
    except TimeoutError:
        raise _too_late(control, names, seconds) from None
    finally:
        cancel()


def hold(call: OutgoingCall, seconds: float, tally: FaultTally | None) -> None:
    """Hold a call back for a fault's delay, which its time has in it.

    Raises:
        MeshRpcError: Its time is over before.
    """
    try:
        time.sleep(_within(call.timeout, seconds))
    finally:
        if tally is not None:
            tally.end()
    _take_off(call, seconds)


async def hold_async(call: OutgoingCall, seconds: float, tally: FaultTally | None) -> None:
    """`hold` for asyncio."""
    try:
        await asyncio.sleep(_within(call.timeout, seconds))
    finally:
        if tally is not None:
            tally.end()
    _take_off(call, seconds)


def not_settled(control: Control, names: tuple[str, ...]) -> LocalReply:
    """The answer to a call whose target's configuration has not come."""
    problem = f"no configuration for {', '.join(names)}: {control.problem or 'it was asked for and has not come'}"
    return LocalReply(503, problem.encode(), flag="NC", details="cluster_not_found", error=NoRouteError(problem))


def _seconds(timeout: float | None, wait_for_ready: bool | None) -> float | None:
    left = deadline.bounded(timeout)
    if wait_for_ready:
        return left
    return _LONGEST_SECONDS if left is None else min(left, _LONGEST_SECONDS)


def _when_settled(control: Control, names: tuple[str, ...], callback: Callable[[], None]) -> Callable[[], None]:
    try:
        return control.when_settled(names, callback)
    except RequestError as error:  # The Mesh is closed.
        raise MeshRpcError(grpc.StatusCode.CANCELLED, str(error)) from None


def _wake(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    with contextlib.suppress(RuntimeError):  # The loop is closed: nobody waits any more.
        loop.call_soon_threadsafe(event.set)


def _too_late(control: Control, names: tuple[str, ...], seconds: float | None) -> MeshRpcError:
    is_deadline = seconds is not None and seconds < _LONGEST_SECONDS
    code = grpc.StatusCode.DEADLINE_EXCEEDED if is_deadline else grpc.StatusCode.UNAVAILABLE
    return MeshRpcError(code, not_settled(control, names).body.decode(), flag="NC")


def _within(timeout: float | None, seconds: float) -> float:
    return seconds if timeout is None else max(0.0, min(seconds, timeout))


def _take_off(call: OutgoingCall, seconds: float) -> None:
    if call.timeout is not None:
        if call.timeout <= seconds:
            raise call.out_of_time()
        call.timeout -= seconds
