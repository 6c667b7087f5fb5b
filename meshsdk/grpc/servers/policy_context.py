"""A gRPC server's context, as handlers see it behind the mesh's policy.

Filters change a request's headers and its answer's: handlers get the metadata that the filters have left, and what the
answer gains goes out with its initial metadata.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import grpc
import grpc.aio

from ...inbound import InboundRequest

__all__ = ["AioPolicyContext", "PolicyContext", "changes"]

Metadata = tuple[tuple[str, str | bytes], ...]

# What is no metadata, though the engine sees it as a header.
_NOT_METADATA = (b"content-type", b"te", b"host")


def changes(request: InboundRequest) -> bool:
    """Whether filters have changed the call, or will change its answer."""
    return request.head.raw_headers is not request.arrived.raw_headers or bool(request.response_changes)


class PolicyContext:
    """Twin of grpc's context, whose metadata are the policy's.

    Args:
        context: grpc's; all that is not here is its own.
        request: The call, as filters have left it.
    """

    def __init__(self, context: Any, request: InboundRequest) -> None:
        self._context = context
        self._request = request
        self._is_sent = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def invocation_metadata(self) -> Metadata:
        """See grpc.ServicerContext."""
        if self._request.head.raw_headers is self._request.arrived.raw_headers:
            return tuple(self._context.invocation_metadata() or ())
        return tuple(
            (name.decode("latin-1").lower(), value if name.endswith(b"-bin") else value.decode("latin-1"))
            for name, value in self._request.head.raw_headers
            if name.lower() not in _NOT_METADATA
        )

    def send_initial_metadata(self, initial_metadata: Iterable[tuple[str, str | bytes]]) -> None:
        """See grpc.ServicerContext."""
        self._is_sent = True
        self._context.send_initial_metadata(self._changed(initial_metadata))

    def begin_answer(self) -> None:
        """The handler is about to answer: what the answer gains is sent, unless the handler has sent its own."""
        if not self._is_sent and self._request.response_changes:
            self.send_initial_metadata(())

    def _changed(self, metadata: Iterable[tuple[str, str | bytes]]) -> Metadata:
        return changed_answer(self._request, metadata)


class AioPolicyContext(PolicyContext):
    """`PolicyContext` for grpc.aio, where sending is awaited."""

    async def send_initial_metadata(  # type: ignore[override]
        self, initial_metadata: Iterable[tuple[str, str | bytes]]
    ) -> None:
        """See grpc.aio.ServicerContext."""
        self._is_sent = True
        await self._context.send_initial_metadata(self._changed(initial_metadata))

    async def begin_answer(self) -> None:  # type: ignore[override]
        """See `PolicyContext`."""
        if not self._is_sent and self._request.response_changes:
            await self.send_initial_metadata(())


# Applications may ask what they have been given.
grpc.ServicerContext.register(PolicyContext)
grpc.aio.ServicerContext.register(AioPolicyContext)


def changed_answer(request: InboundRequest, metadata: Iterable[tuple[str, str | bytes]]) -> Metadata:
    """An answer's initial metadata, with what filters make of them. A gRPC answer has the HTTP status 200."""
    headers = [
        (name.lower().encode("latin-1"), value if isinstance(value, bytes) else value.encode("latin-1", "replace"))
        for name, value in metadata
    ]
    return tuple(
        (name.decode("latin-1"), value if name.endswith(b"-bin") else value.decode("latin-1"))
        for name, value in request.changed_response(headers, 200)
        if name not in _NOT_METADATA
    )
