"""A request, ready for a connection to send."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

from ..exchange import Attempt
from .asked import Trace
from .http1 import encode_head
from .request_body import AsyncRequestBody, RequestBody
from .request_rules import framing_of, with_framing, without_length
from .timeouts import Timeouts

__all__ = ["Outgoing"]

B = TypeVar("B", RequestBody, AsyncRequestBody)


class Outgoing(Generic[B]):
    """What goes out in one attempt.

    Attributes:
        attempt: Gives the target and the mesh's deadline; it is finished when the response is read or given up.
        headers: The attempt's, and those that tracing adds.
        body: In memory, or a stream.
        framing: Where the body ends.
        timeouts: The caller's.
        trace: Whom the caller wants to be told of each step; None is nobody.

    Raises:
        LocalProtocolError: The request is none that a peer would read as it was meant.
    """

    __slots__ = ("attempt", "body", "framing", "headers", "method", "scheme", "timeouts", "trace")

    def __init__(
        self,
        method: str,
        scheme: str,
        attempt: Attempt,
        headers: Sequence[tuple[bytes, bytes]],
        body: bytes | B,
        timeouts: Timeouts,
    ) -> None:
        self.method = method
        self.scheme = scheme
        self.attempt = attempt
        self.headers = headers
        self.body: bytes | B = body
        self.framing = framing_of(method, headers, body)
        self.timeouts = timeouts
        self.trace: Trace | None = None

    def http1_head(self) -> bytes:
        """Request line and headers, which say where the body ends.

        Raises:
            LocalProtocolError: Something in them would begin a new line.
        """
        headers = self.headers
        if self.framing.drops_length:
            headers = without_length(headers)
        elif self.body and not self.framing.has_end:
            headers, self.framing = with_framing(headers, self.body)
        return encode_head(self.method, self.attempt.target, headers)


# How long a body waits for 100 (Continue) before it is sent all the same (RFC 9110: "SHOULD NOT wait indefinitely").
CONTINUE_WAIT_SECONDS = 1.0
