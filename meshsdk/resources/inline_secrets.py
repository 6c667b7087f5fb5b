"""Whether a packed resource holds a secret: what must not be kept anywhere but in memory.

Envoy's protos mark their secret fields (udpa.annotations.sensitive); of those a data source that names a file or a
variable holds none. Headers, parameters and free-form structs have no mark; their names tell, and the form of their
values. A type that is not known may hold anything.

Most of a resource cannot hold a secret, which is read from the descriptors once, so that it is not looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message

from ..sensitive import is_sensitive, is_telling, shown_uri
from .message_types import class_of, is_marked_sensitive

__all__ = ["inline_secret"]

_ANY, _STRUCT = "google.protobuf.Any", "google.protobuf.Struct"
_METADATA = "envoy.config.core.v3.Metadata"
_HEADER_VALUE = "envoy.config.core.v3.HeaderValue"
_HTTP_URI = "envoy.config.core.v3.HttpUri"
_DATA_SOURCE = "envoy.config.core.v3.DataSource"
_MATCHERS = ("envoy.config.route.v3.HeaderMatcher", "envoy.config.route.v3.QueryParameterMatcher")
_TYPED_STRUCTS = ("xds.type.v3.TypedStruct", "udpa.type.v1.TypedStruct")
_LOOKED_AT = frozenset([_ANY, _STRUCT, _HEADER_VALUE, _HTTP_URI, *_MATCHERS])
_MAX_DEPTH = 64

_looked_at: dict[str, list[tuple[str, FieldDescriptor, bool]]] = {}


def inline_secret(type_url: str, packed: bytes) -> str:
    """Where the first secret of a resource is, as the path of its field; empty where there is none."""
    made = class_of(type_url.rpartition("/")[2])
    if made is None:
        return "(a type that is not known)"
    message = made()
    try:
        message.ParseFromString(packed)
    except DecodeError:
        return "(cannot be read)"
    return next(_found(message, "", 0), "")


def _found(message: Any, path: str, depth: int) -> Iterator[str]:
    if depth > _MAX_DEPTH:
        yield f"{path} (nested too deep)"
        return
    kind = message.DESCRIPTOR.full_name
    if kind == _ANY:
        yield from _in_any(message, path, depth)
    elif kind == _STRUCT:
        yield from _in_struct(message, path, depth)
    elif kind == _HEADER_VALUE:
        if is_sensitive(message.key) or is_telling(message.value):
            yield f"{path} {message.key}"
    elif kind == _HTTP_URI:
        if shown_uri(message.uri) != message.uri:
            yield f"{path}.uri"
    elif kind in _MATCHERS and _tells(message):
        yield f"{path} {message.name}"
    elif kind == _METADATA:
        # Endpoints by the thousand have the same.
        where = _in_metadata(message.SerializeToString())
        if where:
            yield f"{path}.{where}"
    else:
        yield from _in_fields(message, path, depth)


def _in_fields(message: Any, path: str, depth: int) -> Iterator[str]:
    for name, field, is_marked in _fields_to_look_at(message.DESCRIPTOR):
        value = getattr(message, name)
        is_one = isinstance(value, Message)
        if not (message.HasField(name) if is_one else value):
            continue
        where = f"{path}.{name}" if path else name
        if is_marked:
            if _is_inline(field, value):
                yield where
            continue
        for one in [value] if is_one else _messages(field, value):
            yield from _found(one, where, depth + 1)


@lru_cache(maxsize=4096)
def _in_metadata(packed: bytes) -> str:
    made = class_of(_METADATA)
    assert made is not None
    message = made()
    message.ParseFromString(packed)
    return next(_in_fields(message, "", 0), "")


def _tells(matcher: Any) -> bool:
    """Whether a matcher wants a value that lets its bearer in. Cookies choose users, and are the canary's way."""
    if matcher.name.lower() == "cookie" or not is_sensitive(matcher.name):
        return False
    wants = matcher.WhichOneof(matcher.DESCRIPTOR.oneofs[0].name)
    return wants not in (None, "present_match")


def _in_any(message: Any, path: str, depth: int) -> Iterator[str]:
    kind = message.type_url.rpartition("/")[2]
    made = class_of(kind)
    if made is None:
        yield f"{path} ({kind[:200]}, a type that is not known)"
        return
    inner: Any = made()
    try:
        inner.ParseFromString(message.value)
    except DecodeError:
        yield f"{path} (cannot be read)"
        return
    # What stands for another message is looked through by the names of its fields.
    yield from _found(inner.value if kind in _TYPED_STRUCTS else inner, path, depth + 1)


def _in_struct(message: Any, path: str, depth: int) -> Iterator[str]:
    for name, value in message.fields.items():
        where = f"{path}.{name[:100]}"
        if is_sensitive(name) and value.WhichOneof("kind") != "null_value":
            yield where
        else:
            yield from _in_value(value, where, depth + 1)


def _in_value(value: Any, path: str, depth: int) -> Iterator[str]:
    kind = value.WhichOneof("kind")
    if depth > _MAX_DEPTH:
        yield f"{path} (nested too deep)"
    elif kind == "struct_value":
        yield from _in_struct(value.struct_value, path, depth)
    elif kind == "list_value":
        for one in value.list_value.values:
            yield from _in_value(one, path, depth + 1)
    elif kind == "string_value" and is_telling(value.string_value):
        yield path


def _is_inline(field: FieldDescriptor, value: Any) -> bool:
    if field.message_type is None or field.message_type.full_name != _DATA_SOURCE:
        return True
    sources = [value] if isinstance(value, Message) else list(value)
    return any(one.WhichOneof("specifier") in ("inline_bytes", "inline_string") for one in sources)


def _messages(field: FieldDescriptor, value: Any) -> list[Message]:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return [one for one in value.values() if isinstance(one, Message)]
    return list(value)


def _fields_to_look_at(descriptor: Descriptor) -> list[tuple[str, FieldDescriptor, bool]]:
    """Fields of a type that hold a secret, or within which there may be one: name, field, which of the two."""
    known = _looked_at.get(descriptor.full_name)
    if known is None:
        marked = [(field, is_marked_sensitive(field)) for field in descriptor.fields]
        known = [
            (field.name, field, is_marked)
            for field, is_marked in marked
            if is_marked or (field.message_type is not None and _can_hold(field.message_type))
        ]
        _looked_at[descriptor.full_name] = known
    return known


def _can_hold(descriptor: Descriptor) -> bool:
    """Whether there may be something to look at, however deep within messages of a type."""
    seen = {descriptor.full_name}
    todo = [descriptor]
    while todo:
        one = todo.pop()
        if one.full_name in _LOOKED_AT or any(is_marked_sensitive(field) for field in one.fields):
            return True
        inner = [field.message_type for field in one.fields if field.message_type is not None]
        todo += [each for each in inner if each.full_name not in seen]
        seen.update(each.full_name for each in inner)
    return False
