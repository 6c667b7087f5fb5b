"""What a channel is opened to."""

from __future__ import annotations

import urllib.parse

from msgspec import Struct

__all__ = ["TargetName", "parse_target"]


class TargetName(Struct, frozen=True):
    """What a channel is opened to.

    Attributes:
        host, port: In lower case.
        port_is_explicit: Whether the target names it.
    """

    host: str
    port: int
    port_is_explicit: bool

    @property
    def authority(self) -> str:
        """As it stands in requests."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}" if self.port_is_explicit else host


def parse_target(target: str) -> TargetName:
    """A channel's target: `ratings:9080`, or `xds:///ratings:9080`.

    Raises:
        ValueError: It is neither.
    """
    text = target.removeprefix("xds:///")
    scheme, separator, _ = text.partition("://")
    parts = urllib.parse.urlsplit(f"//{text}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"target {target!r}: {error}") from None
    if separator or not host or parts.path or parts.query or parts.username is not None:
        hint = f"; {scheme!r} is a scheme that a Mesh does not resolve" if separator else ""
        raise ValueError(f"target {target!r} is not of the form 'host:port' or 'xds:///host:port'{hint}")
    return TargetName(host, port or 80, port is not None)
