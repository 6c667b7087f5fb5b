"""Files with resources as Envoy reads them (PathConfigSource): one DiscoveryResponse, as YAML, JSON, text or bytes.

By the ending of its name: `.yaml`, `.yml`, `.json`, `.pb_text` or `.pb` (Envoy's MessageUtil::loadFromFile).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import json_format, text_format
from google.protobuf.message import DecodeError

from ..errors import ResourceError
from ..regular_file import read_regular
from ..resources import RESOURCE_TYPES, ResourceType
from ..xds.session import unwrap
from .raw import import_types
from .strict_json import parse_json
from .strict_yaml import YamlError, parse_yaml

__all__ = ["read_discovery_file"]

_MAX_BYTES = 64 << 20


def read_discovery_file(path: str) -> dict[tuple[ResourceType, str], bytes]:
    """The resources of a file, by type and name.

    Raises:
        OSError: It cannot be read.
        ValueError: It is none, or holds something else. Nothing of its content is in the message, which may be secret.
    """
    response = _parse(Path(path).suffix, read_regular(path, _MAX_BYTES))
    found: dict[tuple[ResourceType, str], bytes] = {}
    for index, container in enumerate(response.resources):
        kind = RESOURCE_TYPES.get(container.type_url) or RESOURCE_TYPES.get(response.type_url)
        if kind is None:
            raise ValueError(f"resources[{index}] is of type {container.type_url[:200]!r}, which is none of a client's")
        try:
            arrived = unwrap(kind, container)
        except ResourceError as error:
            raise ValueError(f"resources[{index}]: {error}") from None
        if arrived.packed is not None:
            found.update(((kind, name), arrived.packed) for name in arrived.names)
    return found


def _parse(suffix: str, content: bytes) -> Any:
    response = discovery_pb2.DiscoveryResponse()
    try:
        if suffix == ".pb":
            response.ParseFromString(content)
        elif suffix in (".yaml", ".yml"):
            _from_json(next(iter(parse_yaml(content.decode())), None), response)
        elif suffix == ".json":
            _from_json(parse_json(content.decode()), response)
        elif suffix == ".pb_text":
            text_format.Parse(content.decode(), response)
        else:
            raise _WrongNameError("must end with .yaml, .yml, .json, .pb_text or .pb")
    except _WrongNameError:
        raise
    except (
        DecodeError,
        YamlError,
        ValueError,
        TypeError,
        AttributeError,
        RecursionError,
        json_format.ParseError,
        text_format.ParseError,
    ):
        # Without its cause: parsers quote what they do not understand.
        raise ValueError("is no DiscoveryResponse with resources that are known here") from None
    return response


class _WrongNameError(ValueError):
    """The name says nothing of what is in the file."""


def _from_json(document: Any, response: Any) -> None:
    if not isinstance(document, dict):
        raise TypeError("not an object")
    import_types(document)
    json_format.ParseDict(document, response, max_recursion_depth=100)
