"""Waiting for the configuration of a call's target, and what the call is told when it does not come."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import grpc

from .. import deadline
from ..control import Control
from ..errors import NoRouteError, RequestError
from ..exchange import LocalReply
from .call_error import MeshRpcError

__all__ = ["not_settled", "settling_failed", "settling_seconds", "wake", "when_settled"]

# A little more than the time after which a resource counts as missing (Envoy docs, xds_protocol: 15 seconds).
_LONGEST_SECONDS = 20.0


def settling_seconds(timeout: float | None, wait_for_ready: bool | None) -> float | None:
    """How long a call waits for configuration: as long as it has, but without wait_for_ready not for ever."""
    left = deadline.bounded(timeout)
    if wait_for_ready:
        return left
    return _LONGEST_SECONDS if left is None else min(left, _LONGEST_SECONDS)


def when_settled(control: Control, names: tuple[str, ...], callback: Callable[[], None]) -> Callable[[], None]:
    """See `Control.when_settled`.

    Raises:
        MeshRpcError: The mesh is closed.
    """
    try:
        return control.when_settled(names, callback)
    except RequestError as error:
        raise MeshRpcError(grpc.StatusCode.CANCELLED, str(error)) from None


def wake(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    """Set an asyncio event from the control thread."""
    with contextlib.suppress(RuntimeError):  # The loop is closed: nobody waits any more.
        loop.call_soon_threadsafe(event.set)


def settling_failed(control: Control, names: tuple[str, ...], seconds: float | None) -> MeshRpcError:
    """What a call ends with whose configuration did not come in `seconds`."""
    is_deadline = seconds is not None and seconds < _LONGEST_SECONDS
    code = grpc.StatusCode.DEADLINE_EXCEEDED if is_deadline else grpc.StatusCode.UNAVAILABLE
    return MeshRpcError(code, not_settled(control, names).body.decode(), flag="NC")


def not_settled(control: Control, names: tuple[str, ...]) -> LocalReply:
    """The answer to a call in place of its target's."""
    problem = f"no configuration for {', '.join(names)}: {control.problem or 'it was asked for and has not come'}"
    return LocalReply(503, problem.encode(), flag="NC", details="cluster_not_found", error=NoRouteError(problem))
