"""xDS resources that a test serves as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf.message import Message

from ..controlplane.raw import pack_raw
from ..errors import ConfigError
from ..resources import RESOURCE_TYPES, resource_name
from .generation import Key

__all__ = ["Raw", "key_of"]

Raw = Message | Mapping[str, Any]

_PREFIX = "type.googleapis.com/"


def key_of(resource: Raw) -> tuple[Key, bytes]:
    """What a resource is known by, and its bytes.

    Raises:
        ConfigError: It is of a type that is not served, or has no name or an unknown field.
    """
    if isinstance(resource, Mapping):
        kind, packed = pack_raw(resource, "resource")
    else:
        type_url = _PREFIX + resource.DESCRIPTOR.full_name
        if type_url not in RESOURCE_TYPES:
            raise ConfigError("resource", f"must be one of {list(RESOURCE_TYPES)}, is {type_url!r}")
        kind, packed = RESOURCE_TYPES[type_url], resource.SerializeToString(deterministic=True)
    name = resource_name(kind, packed)
    if not name:
        raise ConfigError("resource.name", "must be set: nobody could ask for it")
    return (kind, name), packed
