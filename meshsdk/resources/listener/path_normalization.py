"""How a connection manager makes paths uniform before routes see them (HttpConnectionManager.normalize_path, …)."""

from __future__ import annotations

from enum import Enum
from typing import Any

from msgspec import Struct

from ...errors import ResourceError

__all__ = ["KEEP_PATHS", "EscapedSlashes", "PathNormalization", "parse_path_normalization"]


class EscapedSlashes(Enum):
    """What is done with %2F and %5C (HttpConnectionManager.PathWithEscapedSlashesAction)."""

    KEEP = "KEEP_UNCHANGED"
    REJECT = "REJECT_REQUEST"
    REDIRECT = "UNESCAPE_AND_REDIRECT"
    FORWARD = "UNESCAPE_AND_FORWARD"


class PathNormalization(Struct, frozen=True, gc=False):
    """Which steps are taken: escaped slashes first, then RFC 3986 normalization, then merged slashes."""

    escaped_slashes: EscapedSlashes = EscapedSlashes.KEEP
    normalize: bool = False
    merge_slashes: bool = False

    def __bool__(self) -> bool:
        return self.normalize or self.merge_slashes or self.escaped_slashes is not EscapedSlashes.KEEP


KEEP_PATHS = PathNormalization()

_ACTIONS = {
    0: EscapedSlashes.KEEP,  # IMPLEMENTATION_SPECIFIC_DEFAULT, without a runtime that says otherwise.
    1: EscapedSlashes.KEEP,
    2: EscapedSlashes.REJECT,
    3: EscapedSlashes.REDIRECT,
    4: EscapedSlashes.FORWARD,
}


def parse_path_normalization(manager: Any, where: str) -> PathNormalization:
    """The settings of an HttpConnectionManager."""
    action = _ACTIONS.get(manager.path_with_escaped_slashes_action)
    if action is None:
        raise ResourceError(f"{where}.path_with_escaped_slashes_action", "is not a value that meshsdk knows")
    return PathNormalization(action, manager.normalize_path.value, manager.merge_slashes)
