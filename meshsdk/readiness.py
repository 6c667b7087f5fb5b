"""Waiting until what a target needs has come."""

from __future__ import annotations

import asyncio
import threading

import httpx

from .control import Control
from .errors import NoRouteError
from .xdstp import split_target

__all__ = ["listeners_of", "wait_ready", "wait_ready_async", "wait_settled"]


def listeners_of(control: Control, target: str, scheme: str = "http") -> tuple[str, ...]:
    """Names of the listeners that may stand for a URL, `host`, `host:port`, or one of those after `xds://AUTHORITY/`."""
    authority, url = _split(target, scheme)
    return control.listener_names(
        url.raw_host.decode("ascii"), _port_of(url), port_is_explicit=url.port is not None, authority=authority
    )


def _split(target: str, scheme: str = "http") -> tuple[str | None, httpx.URL]:
    authority, target = split_target(target)
    url = httpx.URL(target if target.startswith(("http://", "https://")) else f"{scheme}://{target}")
    if not url.host:
        raise ValueError(f"a host, host:port or URL is needed, not {target!r}")
    return authority, url


def _port_of(url: httpx.URL) -> int:
    return url.port or (443 if url.scheme == "https" else 80)


def wait_ready(control: Control, target: str, timeout: float) -> None:
    """See `Mesh.wait_ready`."""
    names = listeners_of(control, target)
    wait_settled(control, target, names, timeout)
    _check_known(control, target, names)


async def wait_ready_async(control: Control, target: str, timeout: float) -> None:
    """See `Mesh.wait_ready_async`."""
    loop = asyncio.get_running_loop()
    settled = asyncio.Event()
    names = listeners_of(control, target)

    def wake() -> None:
        loop.call_soon_threadsafe(settled.set)

    cancel = control.when_settled(names, wake)
    try:
        async with asyncio.timeout(timeout):
            await settled.wait()
    except TimeoutError:
        raise _not_ready(control, target, timeout) from None
    finally:
        cancel()
    _check_known(control, target, names)


def wait_settled(control: Control, target: str, names: tuple[str, ...], timeout: float) -> None:
    """Wait until it is known what a target's listeners lead to, or that there are none.

    Raises:
        TimeoutError: No answer in time; the message says why, as far as it is known.
    """
    settled = threading.Event()
    cancel = control.when_settled(names, settled.set)
    try:
        if not settled.wait(timeout):
            raise _not_ready(control, target, timeout)
    finally:
        cancel()


def _not_ready(control: Control, target: str, timeout: float) -> TimeoutError:
    problem = control.problem or "it was asked for and has not come"
    return TimeoutError(f"no configuration for {target} after {timeout:g} s: {problem}")


def _check_known(control: Control, target: str, names: tuple[str, ...]) -> None:
    targets = [control.directory.targets[name] for name in names if name in control.directory.targets]
    if not any(one.table is not None for one in targets):
        problems = "; ".join(one.problem for one in targets if one.problem) or "the Mesh was closed"
        url = _split(target)[1]
        hint = control.hint(url.host, _port_of(url))
        problems = f"{problems}; {hint}" if hint else problems
        raise NoRouteError(f"the mesh does not know {target!r}: {problems}")
