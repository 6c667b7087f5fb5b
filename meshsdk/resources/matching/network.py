"""Addresses and address ranges (envoy.config.core.v3.CidrRange)."""

from __future__ import annotations

import ipaddress
from typing import Any

from ...errors import ResourceError
from ..values import optional

__all__ = ["Network", "parse_cidr"]

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def parse_cidr(message: Any, where: str) -> Network:
    """A CidrRange; one without a length is the single address 0.0.0.0/0 or the like, as Envoy has it.

    Raises:
        ResourceError: It is no address, or the length does not fit it.
    """
    length = optional(message, "prefix_len") or 0
    try:
        # Bits beyond the length are ignored, as Envoy ignores them.
        return ipaddress.ip_network(f"{message.address_prefix}/{length}", strict=False)
    except ValueError as error:
        raise ResourceError(where, f"is not a range of addresses: {error}") from error
