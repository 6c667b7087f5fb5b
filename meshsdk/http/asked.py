"""What a request asks of its connection by extensions of httpx's: `sni_hostname` and `trace`.

The events of `trace` are httpcore's (encode/httpcore, its page on extensions), so that what listens to those goes on
working: `connection.connect_tcp.started`, `http11.send_request_headers.complete`, and so on, for each attempt anew.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from ..resources import Address

__all__ = ["Asked", "Trace", "asked_of"]

Events = list[tuple[str, dict[str, Any]]]
Told = Callable[[BaseException], BaseException]


class Asked:
    """What one request asks.

    Attributes:
        sni_hostname: Whose certificate an https connection is to show, if not the URL's host; empty for that.
        trace: Who wants to be told of each step; None is nobody.
    """

    __slots__ = ("sni_hostname", "trace")

    def __init__(self, sni_hostname: str, trace: Trace | None) -> None:
        self.sni_hostname = sni_hostname
        self.trace = trace


def asked_of(request: Any, told: Told) -> Asked | None:
    """What a request's extensions ask; None where that is nothing. `told` is how its caller hears of an error."""
    extensions: Mapping[str, Any] = request.extensions
    name, callback = extensions.get("sni_hostname"), extensions.get("trace")
    if not name and callback is None:
        return None
    name = name.decode("ascii") if isinstance(name, bytes) else name or ""
    return Asked(name, Trace(callback, request, told) if callback is not None else None)


class Trace:
    """Says in events what happens to a request. Whoever carries it out tells them: `tell`, or `atell` in a loop.

    Args:
        callback: Is given the name of each event and what belongs to it.
        request: As the caller has made it.
        told: What the caller hears in the place of an error of the engine's.
    """

    __slots__ = ("_callback", "_info", "_prefix", "_step", "_told")

    def __init__(self, callback: Any, request: Any, told: Told) -> None:
        self._callback = callback
        self._told = told
        self._prefix = ""
        self._info: dict[str, Any] = {"request": request}
        self._step = ""

    def tell(self, events: Events) -> None:
        """Tell of events.

        Raises:
            TypeError: The callback is a coroutine function.
        """
        for name, info in events:
            if inspect.iscoroutine(answer := self._callback(name, info)):
                answer.close()
                raise TypeError("the `trace` extension of a sync client's request must be a plain function")

    async def atell(self, events: Events) -> None:
        """Tell of events.

        Raises:
            TypeError: The callback is no coroutine function.
        """
        for name, info in events:
            if not inspect.iscoroutine(answer := self._callback(name, info)):
                raise TypeError("the `trace` extension of an async client's request must be a coroutine function")
            await answer

    def begin(self, step: str, info: dict[str, Any]) -> Events:
        """A step begins."""
        self._step = step
        return [(f"{step}.started", info)]

    def end(self, result: Any = None) -> Events:
        """The step is done."""
        return [(f"{self._step}.complete", {"return_value": result})]

    def connecting(self, address: Address, seconds: float | None) -> Events:
        """A connection is opened."""
        self._prefix = ""
        where: dict[str, Any]
        if address.is_unix:
            step, where = "connect_unix_socket", {"path": address.host}
        else:
            step, where = "connect_tcp", {"host": address.host, "port": address.port, "local_address": None}
        return self.begin(f"connection.{step}", {**where, "timeout": seconds, "socket_options": None})

    def securing(self, context: Any, server_name: str, seconds: float | None) -> Events:
        """It is secured by TLS."""
        told = {"ssl_context": context, "server_hostname": server_name or None, "timeout": seconds}
        return self.begin("connection.start_tls", told)

    def failed(self, error: BaseException) -> Events:
        """The step failed, and with it the request."""
        events: Events = [(f"{self._step}.failed", {"exception": self._told(error)})]
        return events + self._closed() if self._prefix else events

    def sending(self, protocol: str, *, stream_id: int | None = None, is_first: bool = False) -> Events:
        """A request goes out, by `http11` or `http2`; head and body go together."""
        self._prefix = protocol
        events: Events = []
        if stream_id is not None:
            if is_first:
                events += self.begin(f"{protocol}.send_connection_init", dict(self._info)) + self.end()
            self._info["stream_id"] = stream_id
        events += self.begin(f"{protocol}.send_request_headers", self._info) + self.end()
        return events + self.begin(f"{protocol}.send_request_body", self._info)

    def sent(self) -> Events:
        """It has gone out, and is waited for to be answered."""
        return self.end() + self.begin(f"{self._prefix}.receive_response_headers", self._info)

    def receiving(self) -> Events:
        """The response's body is read."""
        return self.begin(f"{self._prefix}.receive_response_body", self._info)

    def received(self) -> Events:
        """All of it is read."""
        return self.end() + self._closed()

    def left(self) -> Events:
        """The response is closed before all of it is read."""
        return self._closed()

    def _closed(self) -> Events:
        step = f"{self._prefix}.response_closed"
        told = {name: value for name, value in self._info.items() if name == "stream_id"}
        return [(f"{step}.started", told), (f"{step}.complete", {"return_value": None})]
