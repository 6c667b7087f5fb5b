"""How one attempt ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

__all__ = ["Failure", "Outcome"]


class Failure(Enum):
    """Why an attempt brought no response. Values are Envoy's response flags (access_log/usage, RESPONSE_FLAGS)."""

    CONNECT = "UF"
    RESET = "UC"
    REFUSED_STREAM = "UR"
    PER_TRY_TIMEOUT = "UPT"
    ROUTE_TIMEOUT = "UT"


def _no_header(name: str) -> str | None:
    return None


@dataclass(frozen=True, slots=True)
class Outcome:
    """A response's head, or a failure.

    Attributes:
        status: HTTP status, or None where there was no response.
        failure: Why there was none.
        request_began: Whether any byte of the request may have reached the peer.
        can_replay: Whether the request's body can be sent once more.
        header: Looks a response header up by lower-case name.
    """

    status: int | None = None
    failure: Failure | None = None
    request_began: bool = True
    can_replay: bool = True
    header: Callable[[str], str | None] = _no_header
