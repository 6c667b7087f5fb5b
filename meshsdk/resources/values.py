"""Protobuf's small change: durations, wrappers, percentages, Any and Struct as Python values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import re2
from google.protobuf.message import DecodeError, Message

from ..errors import ResourceError
from . import constraints, protos

__all__ = [
    "Metadatum",
    "checked_regex",
    "config_type",
    "contained",
    "frozen",
    "lb_criteria",
    "optional",
    "port_of",
    "regex_problem",
    "seconds",
    "struct_as_dict",
    "unpack",
]

# A value inside metadata, made hashable: lists become tuples, structs frozen sets of pairs.
Metadatum = object

M = TypeVar("M", bound=Message)
T = TypeVar("T")


@contextmanager
def contained(message: str, name: str) -> Iterator[None]:
    """Whatever goes wrong while a resource is read makes that resource a bad one, and nothing else.

    Also a fault of ours: the server would wait for an answer, and all that it sends afterwards would wait with it.

    Args:
        message: What it is, such as `RouteConfiguration`.
        name: Its name.

    Raises:
        ResourceError: Something went wrong.
    """
    try:
        yield
    except ResourceError as error:
        raise error.named(name) from error
    except DecodeError as error:
        raise ResourceError(message, f"does not parse: {error}", name) from error
    except RecursionError:
        raise ResourceError(message, "is nested too deep", name) from None
    except Exception as error:
        raise ResourceError(message, f"cannot be read: {error!r}", name) from error


def seconds(message: Message, field: str) -> float | None:
    """The google.protobuf.Duration in `field`, in seconds; None where it is not set."""
    if not message.HasField(field):
        return None
    duration = getattr(message, field)
    return float(duration.seconds + duration.nanos / 1e9)


def optional(message: Message, field: str, read: Callable[[Any], T] = lambda wrapper: wrapper.value) -> T | None:
    """The value of a wrapper field (UInt32Value, BoolValue, …), or None where it is not set."""
    return read(getattr(message, field)) if message.HasField(field) else None


def unpack(container: Any, kind: type[M], where: str) -> M:
    """The message of type `kind` inside a google.protobuf.Any, checked.

    Raises:
        ResourceError: It holds another type, does not parse, or breaks a validation rule.
    """
    message = kind()
    if container.type_url.rpartition("/")[2] != message.DESCRIPTOR.full_name:
        raise ResourceError(where, f"must hold a {message.DESCRIPTOR.full_name}, holds {container.type_url!r}")
    try:
        message.ParseFromString(container.value)
    except DecodeError as error:
        raise ResourceError(where, f"does not parse as {message.DESCRIPTOR.full_name}: {error}") from error
    constraints.check(message, where)
    return message


_TYPED_STRUCTS = ("xds.type.v3.TypedStruct", "udpa.type.v1.TypedStruct")


def config_type(container: Any) -> str:
    """The type of a filter's configuration: of what is in the google.protobuf.Any, or in the TypedStruct in it.

    Istio's own filters are configured by TypedStructs, since nobody publishes their messages. The two kinds of
    TypedStruct differ in nothing but their names.
    """
    kind: str = container.type_url.rpartition("/")[2]
    if kind not in _TYPED_STRUCTS:
        return kind
    try:
        inner = protos.typed_struct_pb2.TypedStruct.FromString(container.value).type_url.rpartition("/")[2]
    except DecodeError:
        return kind
    return inner or kind


def checked_regex(pattern: str, where: str) -> str:
    """`pattern`, known to compile with RE2 (type.matcher.v3.RegexMatcher)."""
    problem = regex_problem(pattern)
    if problem:
        raise ResourceError(where, f"is not a regular expression that RE2 accepts: {problem}")
    return pattern


def regex_problem(pattern: str) -> str:
    """Why RE2 does not take a regular expression; empty where it does."""
    options = re2.Options()
    options.log_errors = False
    try:
        re2.compile(pattern, options)
    except (re2.error, UnicodeError) as error:
        told = error.args[0] if error.args else error
        return told.decode("utf-8", "replace") if isinstance(told, bytes) else str(error)
    return ""


def port_of(text: str) -> int | None:
    """The port that a text says; None where it says none."""
    # Python refuses to read thousands of digits, by an error of its own.
    is_number = text.isascii() and text.isdecimal() and len(text) <= 5
    return int(text) if is_number and int(text) <= 65535 else None


def struct_as_dict(struct: Message) -> Mapping[str, Any]:
    """A google.protobuf.Struct as a dict."""
    converted: Mapping[str, Any] = protos.json_format.MessageToDict(struct)
    return converted


def frozen(value: Any) -> Metadatum:
    """A value of a struct, made hashable so that it can be compared and looked up."""
    if isinstance(value, Mapping):
        return frozenset((key, frozen(inner)) for key, inner in value.items())
    if isinstance(value, list):
        return tuple(frozen(inner) for inner in value)
    # True == 1.0 in Python; in a struct they differ.
    return ("bool", value) if isinstance(value, bool) else value


def lb_criteria(metadata: Any) -> tuple[tuple[str, Metadatum], ...]:
    """The values under `envoy.lb` of an envoy.config.core.v3.Metadata, in order of their keys."""
    if "envoy.lb" not in metadata.filter_metadata:
        return ()
    values = struct_as_dict(metadata.filter_metadata["envoy.lb"])
    return tuple((key, frozen(values[key])) for key in sorted(values))
