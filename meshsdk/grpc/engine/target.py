"""What a channel is opened to."""

from __future__ import annotations

import urllib.parse

from msgspec import Struct

from ...xdstp import split_target

__all__ = ["TargetName", "parse_target"]


class TargetName(Struct, frozen=True):
    """What a channel is opened to.

    Attributes:
        host, port: In lower case.
        port_is_explicit: Whether the target names it.
        xds_authority: Whose listeners stand for it (gRFC A47); None is the default.
    """

    host: str
    port: int
    port_is_explicit: bool
    xds_authority: str | None = None

    @property
    def text(self) -> str:
        """What `parse_target` makes it of."""
        whose = f"xds://{urllib.parse.quote(self.xds_authority)}/" if self.xds_authority is not None else ""
        return f"{whose}{self.authority}"

    @property
    def authority(self) -> str:
        """As it stands in requests."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}" if self.port_is_explicit else host


def parse_target(target: str) -> TargetName:
    """A channel's target: `ratings:9080`, `xds:///ratings:9080`, or `xds://authority/ratings:9080`.

    Raises:
        ValueError: It is none of these.
    """
    xds_authority, text = split_target(target)
    scheme, separator, _ = text.partition("://")
    parts = urllib.parse.urlsplit(f"//{text}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"target {target!r}: {error}") from None
    if separator or not host or parts.path or parts.query or parts.username is not None:
        hint = f"; {scheme!r} is a scheme that a Mesh does not resolve" if separator else ""
        raise ValueError(
            f"target {target!r} is not of the form 'host:port', 'xds:///host:port' or 'xds://authority/host:port'{hint}"
        )
    return TargetName(host, port or 80, port is not None, xds_authority)
