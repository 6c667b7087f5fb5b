"""Resources as JSON, as Envoy's /config_dump shows them: names of fields as in protobuf, secrets left out.

Source: Envoy docs, operations/admin, and source/common/protobuf/utility.cc (MessageUtil::redact): where a field is
marked as sensitive its strings and bytes become "[redacted]", and its numbers are cleared.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import any_pb2, json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from ..resources.message_types import class_of, is_marked_sensitive
from ..sensitive import REDACTED, is_sensitive, is_telling, shown_uri

__all__ = ["pack", "plain", "redact"]

_ANY = "google.protobuf.Any"
_HEADER_VALUE = "envoy.config.core.v3.HeaderValue"
_HTTP_URI = "envoy.config.core.v3.HttpUri"
_MATCHERS = ("envoy.config.route.v3.HeaderMatcher", "envoy.config.route.v3.QueryParameterMatcher")
_TYPED_STRUCTS = ("xds.type.v3.TypedStruct", "udpa.type.v1.TypedStruct")
_BY_NAME = frozenset([_HEADER_VALUE, _HTTP_URI, *_MATCHERS, *_TYPED_STRUCTS, "google.protobuf.Struct"])
_MAX_DEPTH = 64


def plain(type_url: str, packed: bytes) -> dict[str, Any]:
    """A resource, without its secrets. What is of a type that is not known is told so."""
    shown: dict[str, Any] = json_format.MessageToDict(pack(type_url, packed), preserving_proto_field_name=True)
    return shown


def pack(type_url: str, packed: bytes) -> any_pb2.Any:
    """A resource as Any, without its secrets; its type's name alone where it cannot be written as JSON."""
    message = any_pb2.Any(type_url=type_url, value=packed)
    redact(message)
    try:
        json_format.MessageToDict(message)
    except (ValueError, TypeError, json_format.Error):
        message = any_pb2.Any(type_url=type_url, value=packed)
        _replace_unknown(message)
    return message


def redact(message: Message, depth: int = 0) -> None:
    """Take all secrets out, within Anys too, and see to it that each of those can be written as JSON."""
    if depth > _MAX_DEPTH:
        message.Clear()
        return
    descriptor = message.DESCRIPTOR
    if descriptor.full_name == _ANY:
        _redact_any(message, depth)
        return
    if descriptor.full_name in _BY_NAME and _redact_by_name(message, descriptor.full_name):
        return
    for field, value in message.ListFields():
        is_secret = is_marked_sensitive(field)
        if field.message_type is None or _is_map_of_scalars(field):
            if is_secret:
                _hide_scalar(message, field, value)
            continue
        for one in _messages(field, value):
            if is_secret:
                _hide(one, depth)
            else:
                redact(one, depth + 1)


def _redact_by_name(message: Any, kind: str) -> bool:
    """What no mark says: headers, parameters and fields whose names tell. Whether there is no more to be done."""
    if kind == _HEADER_VALUE:
        if is_sensitive(message.key) or is_telling(message.value):
            message.ClearField("raw_value")
            message.value = REDACTED
        return True
    if kind == _HTTP_URI:
        message.uri = shown_uri(message.uri)
        return True
    if kind in _MATCHERS:
        if not is_sensitive(message.name):
            return False
        name = message.name
        message.Clear()
        message.name = name
        return True
    if kind in _TYPED_STRUCTS:
        _redact_typed_struct(message)
        return True
    for name, value in message.fields.items():
        if is_sensitive(name):
            value.string_value = REDACTED
        else:
            _redact_value(value, 0)
    return True


def _redact_value(value: Any, depth: int) -> None:
    """Secrets within a google.protobuf.Value, by the names of its fields."""
    if depth > _MAX_DEPTH:
        value.Clear()
        return
    kind = value.WhichOneof("kind")
    if kind == "list_value":
        for one in value.list_value.values:
            _redact_value(one, depth + 1)
    elif kind == "struct_value":
        for name, one in value.struct_value.fields.items():
            if is_sensitive(name):
                one.string_value = REDACTED
            else:
                _redact_value(one, depth + 1)
    elif kind == "string_value" and is_telling(value.string_value):
        value.string_value = REDACTED


def _redact_typed_struct(message: Any) -> None:
    """As the message that it stands for (Envoy: MessageUtil::redact); its name alone where that cannot be had."""
    made = class_of(message.type_url.rpartition("/")[2])
    try:
        if made is None:
            raise ValueError("the type is not known")
        inner = json_format.ParseDict(json_format.MessageToDict(message.value), made())
        redact(inner)
        shown = json_format.MessageToDict(inner, preserving_proto_field_name=True)
        message.value.Clear()
        json_format.ParseDict(shown, message.value)
    except (ValueError, TypeError, json_format.Error):
        message.value.Clear()


def _messages(field: FieldDescriptor, value: Any) -> list[Message]:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        values = list(value.values())
        return [one for one in values if isinstance(one, Message)]
    return [value] if isinstance(value, Message) else list(value)


def _redact_any(message: Any, depth: int) -> None:
    made = class_of(message.type_url.rpartition("/")[2])
    if made is not None:
        inner = made()
        try:
            inner.ParseFromString(message.value)
        except DecodeError:
            made = None
        else:
            redact(inner, depth + 1)
            message.value = inner.SerializeToString(deterministic=True)
    if made is None:
        _replace_unknown(message)


def _replace_unknown(message: Any) -> None:
    """A type that is not known is shown by its name alone."""
    stands_for = class_of("xds.type.v3.TypedStruct")
    assert stands_for is not None
    message.Pack(stands_for(type_url=message.type_url))


def _hide(message: Message, depth: int) -> None:
    """Everything within a sensitive field."""
    if depth > _MAX_DEPTH or message.DESCRIPTOR.full_name == _ANY:
        message.Clear()
        return
    for field, value in message.ListFields():
        if field.message_type is None or _is_map_of_scalars(field):
            _hide_scalar(message, field, value)
        else:
            for one in _messages(field, value):
                _hide(one, depth + 1)


def _is_map_of_scalars(field: FieldDescriptor) -> bool:
    entry = field.message_type
    return bool(
        entry is not None and entry.GetOptions().map_entry and entry.fields_by_name["value"].message_type is None
    )


def _hide_scalar(message: Message, field: FieldDescriptor, value: Any) -> None:
    """A scalar, many of them, or a map of them."""
    kind = field.type if field.message_type is None else field.message_type.fields_by_name["value"].type
    hidden: Any = {FieldDescriptor.TYPE_STRING: REDACTED, FieldDescriptor.TYPE_BYTES: REDACTED.encode()}.get(kind)
    if hidden is None:
        message.ClearField(field.name)
    elif field.message_type is not None:
        for key in value:
            value[key] = hidden
    elif not isinstance(value, str | bytes):
        value[:] = [hidden] * len(value)
    else:
        setattr(message, field.name, hidden)
