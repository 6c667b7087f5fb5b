"""What only a connection manager can say of an odd request: which upgrades there are, and what paths may hold.

Sources: HttpConnectionManager.upgrade_configs, Envoy docs, intro/arch_overview/http/upgrades.
"""

from __future__ import annotations

import re2

from ..routing import RequestHead

__all__ = ["asks_for_another", "has_dots_with_parameters"]

# Some readers take parameters off a segment before they look for dots, and others do not.
_DOTS_WITH_PARAMETERS = re2.compile(r"(?i)/(?:\.|%2e){1,2};")


def asks_for_another(head: RequestHead, upgrades: frozenset[str]) -> bool:
    """Whether a request asks for a protocol that is not among `upgrades`; an Upgrade that Connection lacks is none."""
    options = (head.header("connection") or "").lower().split(",")
    if "upgrade" not in [option.strip(" \t") for option in options]:
        return False
    return (head.header("upgrade") or "").lower() not in upgrades


def has_dots_with_parameters(path: str) -> bool:
    """Whether a segment is `..;x` or the like."""
    return ";" in path and _DOTS_WITH_PARAMETERS.search(path) is not None
