"""Errors of calls that never reached grpc-core, or whose metadata is not to be seen as it came."""

from __future__ import annotations

import urllib.parse
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import grpc
import grpc.aio

from ...exchange import LocalReply

__all__ = ["MeshRpcError", "status_of"]

Metadata = Sequence[tuple[str, str | bytes]]

_CODES = {code.value[0]: code for code in grpc.StatusCode}


class MeshRpcError(grpc.RpcError, grpc.Call, grpc.Future):  # type: ignore[misc]
    """A call that is over without success: an exception, and the call that it is the end of.

    Attributes:
        flag: Envoy's response flag; empty where the server answered.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        details: str,
        *,
        initial_metadata: Metadata = (),
        trailing_metadata: Metadata = (),
        flag: str = "",
        debug: str = "",
    ) -> None:
        super().__init__(f"{code.name}: {details}")
        self.flag = flag
        self._code = code
        self._details = details
        self._initial_metadata = tuple(initial_metadata)
        self._trailing_metadata = tuple(trailing_metadata)
        self._debug = debug

    @classmethod
    def of_reply(cls, reply: LocalReply) -> MeshRpcError:
        """What Envoy would answer a gRPC request with, as the error that a client makes of it.

        Args:
            reply: The answer.
        """
        code, details, metadata = status_of(reply)
        return cls(code, details, trailing_metadata=metadata, flag=reply.flag)

    def for_asyncio(self) -> grpc.aio.AioRpcError:
        """The same as calls of grpc.aio end with."""
        return grpc.aio.AioRpcError(
            self._code,
            grpc.aio.Metadata(*self._initial_metadata),
            grpc.aio.Metadata(*self._trailing_metadata),
            self._details,
            self._debug,
        )

    def code(self) -> grpc.StatusCode:
        """See grpc.Call."""
        return self._code

    def details(self) -> str:
        """See grpc.Call."""
        return self._details

    def debug_error_string(self) -> str:
        """What grpc-core has to say besides, for people."""
        return self._debug

    def initial_metadata(self) -> Metadata:
        """See grpc.Call."""
        return self._initial_metadata

    def trailing_metadata(self) -> Metadata:
        """See grpc.Call."""
        return self._trailing_metadata

    def is_active(self) -> bool:
        """See grpc.RpcContext."""
        return False

    def time_remaining(self) -> None:
        """See grpc.RpcContext."""

    def cancel(self) -> bool:
        """See grpc.Future: it is over already."""
        return False

    def cancelled(self) -> bool:
        """See grpc.Future."""
        return False

    def running(self) -> bool:
        """See grpc.Future."""
        return False

    def done(self) -> bool:
        """See grpc.Future."""
        return True

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """See grpc.RpcContext: it is over already, so the callback will not be called."""
        return False

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        """See grpc.Future."""
        fn(self)

    def result(self, timeout: float | None = None) -> NoReturn:
        """See grpc.Future."""
        raise self

    def exception(self, timeout: float | None = None) -> MeshRpcError:
        """See grpc.Future."""
        return self

    def traceback(self, timeout: float | None = None) -> Any:
        """See grpc.Future."""
        return self.__traceback__

    def __iter__(self) -> MeshRpcError:
        return self

    def __next__(self) -> NoReturn:
        raise self


def status_of(reply: LocalReply) -> tuple[grpc.StatusCode, str, list[tuple[str, str | bytes]]]:
    """Status, message and metadata of a local reply to a gRPC request."""
    code, details = grpc.StatusCode.UNKNOWN, ""
    metadata: list[tuple[str, str | bytes]] = []
    for name, value in reply.as_grpc().headers:
        if name == b"grpc-status":
            code = _CODES.get(int(value), grpc.StatusCode.UNKNOWN)
        elif name == b"grpc-message":
            details = urllib.parse.unquote(value.decode("latin-1"))
        elif name not in (b"content-type", b"content-length"):
            metadata.append((name.decode("latin-1").lower(), value.decode("latin-1")))
    if code is grpc.StatusCode.OK:
        # A status without a message is no success for a client that waits for one.
        code, details = grpc.StatusCode.INTERNAL, "the mesh's configuration answers OK, without a message"
    if not details and reply.error is not None:
        details = str(reply.error)
    return code, details, metadata
