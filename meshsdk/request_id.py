"""x-request-id: made for requests that have none, and that of the request that is being handled, for those it causes.

A sidecar makes one and leaves it to the application to copy it from what comes in to what goes out. Here the inbound
request's id travels in a context variable, as `meshsdk.deadline` does: through awaits and asyncio tasks by itself,
into other threads by `contextvars.copy_context().run`.

Source: Envoy source/extensions/request_id/uuid/config.cc; docs, http_conn_man/headers (x-request-id).
"""

from __future__ import annotations

from contextvars import ContextVar
from random import getrandbits

__all__ = ["NAME", "carried", "current", "make_request_id"]

NAME = b"x-request-id"

current: ContextVar[bytes | None] = ContextVar("meshsdk_request_id", default=None)
"""The id of the inbound request; None outside of one, and in one that has none."""


def make_request_id() -> bytes:
    """A random UUID (version 4). It names a request and is no secret, so that a generator of no security is enough."""
    # uuid.uuid4 takes five times as long. RFC 9562 section 5.4: 4 is the version, and two bits are the variant.
    return b"%08x-%04x-4%03x-%04x-%012x" % (
        getrandbits(32),
        getrandbits(16),
        getrandbits(12),
        0x8000 | getrandbits(14),
        getrandbits(48),
    )


def carried(value: bytes | None) -> bytes | None:
    """An inbound request's id as it may go on in other requests; None for one that no header of theirs could hold.

    Args:
        value: As it came; None where it has none.
    """
    is_plain = value is not None and 0 < len(value) <= _MAX_LENGTH and value.isascii() and value.decode().isprintable()
    return value if is_plain else None


_MAX_LENGTH = 256
