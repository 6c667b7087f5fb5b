"""What the engine may wait for. Whoever drives it carries one out and sends the result back in.

wait = next(steps)
wait = steps.send(result)      # until StopIteration, whose value is the answer, or None to let the request in
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct, field

from ..resources.filters.ext_authz import ExtAuthz
from ..resources.filters.jwt import RemoteJwks
from ..resources.filters.rate_limit import RateLimitService
from ..routing import RequestHead
from .connection import Connection
from .filters.descriptors import Descriptor

__all__ = [
    "AskAuthorization",
    "AskRateLimit",
    "AuthorizationAnswer",
    "Delay",
    "FetchKeys",
    "LimitStatus",
    "RateLimitAnswer",
    "ReadBody",
    "Wait",
]


class Delay(Struct, frozen=True):
    """Let this time pass. The result is None."""

    seconds: float


class FetchKeys(Struct, frozen=True):
    """Fetch a key set. The result is its text, or None where that failed."""

    remote: RemoteJwks


class ReadBody(Struct, frozen=True):
    """Read the request's body. The result is its beginning: one byte more than the limit where it is longer."""

    max_bytes: int


class AuthorizationAnswer(Struct, frozen=True):
    """What an authorization server says.

    Attributes:
        allowed: Whether the request may go on.
        status: Of the refusal, as HTTP.
        body: Of the refusal.
        set_headers, append_headers, remove_headers: Changes of the request.
        response_headers: Of the refusal, or added to the response where it is allowed.
        metadata: Told to later filters.
    """

    allowed: bool
    status: int = 403
    body: bytes = b""
    set_headers: tuple[tuple[str, str], ...] = ()
    append_headers: tuple[tuple[str, str], ...] = ()
    remove_headers: tuple[str, ...] = ()
    response_headers: tuple[tuple[str, str], ...] = ()
    metadata: Mapping[str, object] = field(default_factory=dict)


class AskAuthorization(Struct, frozen=True):
    """Ask an authorization server. The result is an AuthorizationAnswer, or None where it could not be asked."""

    settings: ExtAuthz
    head: RequestHead
    connection: Connection
    body: bytes
    context_extensions: Mapping[str, str]
    metadata: Mapping[str, Mapping[str, object]]


class LimitStatus(Struct, frozen=True):
    """How near a limit is (RateLimitResponse.DescriptorStatus).

    Attributes:
        requests_per_unit: None where there is no limit.
    """

    requests_per_unit: int | None = None
    unit: str = ""
    name: str = ""
    remaining: int = 0
    reset_seconds: int = 0


class RateLimitAnswer(Struct, frozen=True):
    """What a rate limit server says.

    Attributes:
        body: Of the refusal.
        response_headers, request_headers: Added to the response, and set in the request that goes on.
        metadata: Told to later filters.
    """

    is_over_limit: bool
    body: bytes = b""
    response_headers: tuple[tuple[bytes, bytes], ...] = ()
    request_headers: tuple[tuple[bytes, bytes], ...] = ()
    statuses: tuple[LimitStatus, ...] = ()
    metadata: Mapping[str, object] = field(default_factory=dict)


class AskRateLimit(Struct, frozen=True):
    """Ask a rate limit server. The result is a RateLimitAnswer, or None where it could not be asked."""

    service: RateLimitService
    domain: str
    descriptors: tuple[Descriptor, ...]


Wait = Delay | FetchKeys | ReadBody | AskAuthorization | AskRateLimit
