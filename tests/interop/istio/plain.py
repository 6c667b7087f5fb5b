"""Typed objects as plain data that can be compared and printed."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, Flag
from typing import Any

from msgspec import Struct

from meshsdk.resources import FractionalPercent

__all__ = ["plain"]


def plain(value: Any) -> Any:
    """Structs as dictionaries, enums and flags by name, percentages as shares; notes are left out."""
    if isinstance(value, FractionalPercent):
        return round(value.share, 8)
    if isinstance(value, Flag):
        return sorted(flag.name for flag in type(value) if flag in value and flag.name)
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, Struct):
        shown = {name: plain(getattr(value, name)) for name in value.__struct_fields__ if name != "notes"}
        return {"": type(value).__name__, **shown}
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted((plain(one) for one in value), key=repr)
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return round(value, 6) if isinstance(value, float) else value
