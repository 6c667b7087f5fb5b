"""What of a client library's inside is used to do the same in less (`front`, `library`).

Only of releases that it was proven with, by `tests/http/test_front.py` and `make httpx-suite`: a release is known by
the bytes of its source, so that a patched copy is another. Of all others nothing is used.
"""

from __future__ import annotations

import hashlib
import logging
import time
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

__all__ = ["BUILT_BY", "SENT_BY", "Internals", "Methods", "internals_of"]

_FILES = ("_client", "_content", "_exceptions", "_models", "_urls")
_PROVEN = {
    "8045e2b4933f5fd64f3042faf22e6d60b65b78d4aa26d310eea3331aac1774c4": "httpx 0.27.1 and 0.27.2",
    "7014c0e7ed035bcf23ddfe1b9146a05fa10fc096bccd0aefdab94fcaf8c2f026": "httpx 0.28.0",
    "49c38aa56299b9d677f112be5fccab8f10233a26e675a4f6ecaff086bd4c88b0": "httpx 0.28.1",
    "3f58eb6825d66c282ab0475c3847eb7916f5320fd1f84959cfe6dc34528217b7": "httpx2 2.16.1 and 2.16.2",
}

# What a client's request goes through: the first of each is replaced by `front`, the others are passed over there.
BUILT_BY = ("build_request", "_merge_url", "_merge_headers", "_merge_cookies", "_merge_queryparams")
SENT_BY = (
    "send",
    "_set_timeout",
    "_build_request_auth",
    "_send_handling_auth",
    "_send_handling_redirects",
    "_send_single_request",
    "_transport_for_url",
)


class Methods:
    """Whether some of a client's methods are the library's.

    Args:
        own: The library's class, as it was proven.
        names: The one that is replaced, and those that are passed over.
    """

    __slots__ = ("_names", "_of_class", "_of_kind", "_own", "_proven")

    def __init__(self, own: Any, names: tuple[str, ...]) -> None:
        self._own = own
        self._names = frozenset(names[1:])
        self._of_class, self._of_kind = attrgetter(*names), attrgetter(*names[1:])
        self._proven: tuple[Any, ...] = self._of_class(own)

    @property
    def all(self) -> tuple[Any, ...]:
        """The methods."""
        return self._proven

    def are_of(self, client: Any) -> bool:
        """Whether nobody has put anything in their place: in the library, in a subclass, or in this client."""
        is_proven: bool = (
            self._of_class(self._own) == self._proven
            and self._of_kind(type(client)) == self._proven[1:]
            and self._names.isdisjoint(client.__dict__)
        )
        return is_proven


class Internals:
    """The parts of one library.

    Attributes:
        module: The library.
        client, content: Its modules of these names.
        logger: That it tells each request.
        suppressed: What it does not mind about a redirect that is not followed.
    """

    def __init__(self, module: ModuleType) -> None:
        name = module.__name__
        self.module: Any = module
        self.client: Any = import_module(f"{name}._client")
        self.content: Any = import_module(f"{name}._content")
        self.logger = logging.getLogger(name)
        self.suppressed: tuple[type[Exception], ...] = (self.module.RemoteProtocolError,) if name == "httpx2" else ()

    def is_whole(self, own: Any) -> bool:
        """Whether a client's class has its methods from the library, and not from who watches or replaces them."""
        methods = (*Methods(own, BUILT_BY).all, *Methods(own, SENT_BY).all)
        return all(
            type(method) is FunctionType and method.__code__.co_filename == self.client.__file__ for method in methods
        )

    def sync_stream(self, response: Any, start: float) -> Any:
        """A response's body as the library's client has it, which notes how long that took since `start`."""
        return self.client.BoundSyncStream(response.stream, **self._bound(response, start))

    def async_stream(self, response: Any, start: float) -> Any:
        """`sync_stream` of an async client."""
        return self.client.BoundAsyncStream(response.stream, **self._bound(response, start))

    def _bound(self, response: Any, start: float) -> dict[str, Any]:
        if self.module.__name__ == "httpx2":
            return {"start": start}
        if hasattr(self.client, "Timer"):  # httpx 0.27's; a loop's clock need not be this one.
            return {"response": response, "timer": _Timer(start)}
        return {"response": response, "start": start}

    def headers(self, fields: list[tuple[bytes, bytes, bytes]]) -> Any:
        """Headers of name, lower-case name and value."""
        made = self.module.Headers.__new__(self.module.Headers)
        made._list, made._encoding = fields, None
        return made

    def response(self, status: int, headers: Any, stream: Any, extensions: dict[str, Any]) -> Any:
        """A response, as the library's constructor makes one of header pairs and a stream."""
        made = self.module.Response.__new__(self.module.Response)
        made.status_code = status
        made.headers = self.headers([(name, name.lower(), value) for name, value in headers])
        made._request = made.next_request = None
        made.extensions = extensions
        made.history = []
        made.is_closed = made.is_stream_consumed = False
        made.default_encoding = "utf-8"
        made.stream = stream
        made._num_bytes_downloaded = 0
        return made


class _Timer:
    """In the place of httpx 0.27's."""

    def __init__(self, start: float) -> None:
        self._start = start

    def sync_elapsed(self) -> float:
        return time.perf_counter() - self._start

    async def async_elapsed(self) -> float:
        return time.perf_counter() - self._start


def internals_of(module: ModuleType) -> Internals | None:
    """The inside of a library; None for one that nothing is known of."""
    digest = hashlib.sha256()
    try:
        for name in _FILES:
            digest.update(Path(str(module.__file__)).with_name(f"{name}.py").read_bytes())
    except OSError:
        return None  # There is no source to know it by.
    if digest.hexdigest() not in _PROVEN:
        return None
    internals = Internals(module)
    whole = internals.is_whole(internals.module.Client) and internals.is_whole(internals.module.AsyncClient)
    return internals if whole else None
