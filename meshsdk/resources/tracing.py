"""What connection managers and routes say of request ids and traces.

Sources: HttpConnectionManager (generate_request_id, preserve_external_request_id, always_set_request_id_in_response,
request_id_extension, tracing), envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig,
envoy.type.tracing.v3.CustomTag, envoy.config.route.v3.Tracing and Decorator.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

from msgspec import Struct

from ..errors import ResourceError
from . import protos
from .notes import Notes
from .values import optional, unpack

__all__ = [
    "MAX_PATH_LENGTH",
    "CustomTag",
    "RequestIds",
    "Share",
    "TagSource",
    "Tracing",
    "parse_operation",
    "parse_request_ids",
    "parse_route_tracing",
    "parse_tracing",
]

# HttpConnectionManager.Tracing.max_path_tag_length: where unset.
MAX_PATH_LENGTH = 256

# Of one connection manager or route; more are a mistake, and spans hold 128 by default.
_MAX_TAGS = 128


class RequestIds(Struct, frozen=True, gc=False):
    """What is done about x-request-id.

    Attributes:
        generates: One is made where there is none.
        keeps_external: One that comes from outside the mesh is kept, too.
        in_response: Responses have it.
        packs_reason: Its 15th character says why the request is traced.
        decides_sampling: Whether a request is sampled is worked out of its id; otherwise every one is.
    """

    generates: bool = True
    keeps_external: bool = False
    in_response: bool = False
    packs_reason: bool = True
    decides_sampling: bool = True


class Share(Struct, frozen=True, gc=False):
    """A share of the requests."""

    numerator: int
    denominator: int


ALL = Share(100, 100)


class TagSource(Enum):
    """Where a tag's value comes from."""

    LITERAL = "literal"
    ENVIRONMENT = "environment"
    HEADER = "request_header"
    FORMAT = "value"
    REQUEST_METADATA = "request"
    ROUTE_METADATA = "route"
    CLUSTER_METADATA = "cluster"
    HOST_METADATA = "host"


class CustomTag(Struct, frozen=True, gc=False):
    """A tag of spans.

    Attributes:
        value: A literal, the name of a variable or of a header (lower case), a format string; of metadata the filter.
        path: Within the filter's metadata.
        default: Where there is no value; an empty one makes no tag.
    """

    name: str
    source: TagSource
    value: str
    path: tuple[str, ...] = ()
    default: str = ""


class Tracing(Struct, frozen=True, gc=False):
    """Which requests are traced, and how their spans are tagged.

    Attributes:
        client: Of requests with x-client-trace-id, which ask for it.
        random: Of the others.
        overall: Of all that either of them has chosen.
        max_path_length: Of the path in the tag http.url, in characters.
    """

    client: Share = ALL
    random: Share = ALL
    overall: Share = ALL
    tags: tuple[CustomTag, ...] = ()
    max_path_length: int = MAX_PATH_LENGTH


def parse_request_ids(manager: Any, where: str, notes: Notes) -> RequestIds:
    """What a connection manager does about x-request-id."""
    packs, decides = True, True
    if manager.HasField("request_id_extension"):
        container, path = manager.request_id_extension.typed_config, f"{where}.request_id_extension.typed_config"
        kind = protos.uuid_pb2.UuidRequestIdConfig
        if container.type_url.rpartition("/")[2] == kind.DESCRIPTOR.full_name:
            config = unpack(container, kind, path)
            packs = optional(config, "pack_trace_reason") is not False
            decides = optional(config, "use_request_id_for_trace_sampling") is not False
        else:
            notes.add(path, f"{container.type_url!r} is not acted on: request ids are UUIDs")
    return RequestIds(
        generates=optional(manager, "generate_request_id") is not False,
        keeps_external=manager.preserve_external_request_id,
        in_response=manager.always_set_request_id_in_response,
        packs_reason=packs,
        decides_sampling=decides,
    )


# The collector and its protocol are the application's SDK's affair.
_MANAGER_FIELDS = frozenset(
    "client_sampling random_sampling overall_sampling max_path_tag_length custom_tags provider".split()
)


def parse_tracing(manager: Any, where: str, notes: Notes) -> Tracing | None:
    """HttpConnectionManager.tracing; None where it is not set.

    Raises:
        ResourceError: A rule does not hold.
    """
    if not manager.HasField("tracing"):
        return None
    message, path = manager.tracing, f"{where}.tracing"
    notes.unless_acted_on(message, path, _MANAGER_FIELDS)
    length = optional(message, "max_path_tag_length")
    return Tracing(
        client=_percent(message, "client_sampling", 100),
        random=_percent(message, "random_sampling", 10_000),
        overall=_percent(message, "overall_sampling", 10_000),
        tags=_parse_tags(message.custom_tags, f"{path}.custom_tags", notes),
        max_path_length=MAX_PATH_LENGTH if length is None else length,
    )


_ROUTE_FIELDS = frozenset("client_sampling random_sampling overall_sampling custom_tags".split())


def parse_route_tracing(route: Any, where: str, notes: Notes) -> Tracing | None:
    """Route.tracing; None where it is not set.

    Raises:
        ResourceError: A rule does not hold.
    """
    if not route.HasField("tracing"):
        return None
    message, path = route.tracing, f"{where}.tracing"
    notes.unless_acted_on(message, path, _ROUTE_FIELDS)
    return Tracing(
        client=_fraction(message, "client_sampling"),
        random=_fraction(message, "random_sampling"),
        overall=_fraction(message, "overall_sampling"),
        tags=_parse_tags(message.custom_tags, f"{path}.custom_tags", notes),
    )


def parse_operation(route: Any) -> str:
    """Route.decorator: what spans of its requests are called; empty where it says nothing."""
    operation: str = route.decorator.operation
    return operation


def _percent(message: Any, field: str, denominator: int) -> Share:
    """A Percent as Envoy rounds it (PROTOBUF_PERCENT_TO_ROUNDED_INTEGER_OR_DEFAULT)."""
    percent = getattr(message, field).value if message.HasField(field) else 100.0
    # std::round: halves go up.
    return Share(int(percent * denominator / 100 + 0.5), denominator)


_DENOMINATORS = {0: 100, 1: 10_000, 2: 1_000_000}


def _fraction(message: Any, field: str) -> Share:
    if not message.HasField(field):
        return ALL
    fraction = getattr(message, field)
    return Share(fraction.numerator, _DENOMINATORS[fraction.denominator])


def _parse_tags(messages: Any, where: str, notes: Notes) -> tuple[CustomTag, ...]:
    if len(messages) > _MAX_TAGS:
        raise ResourceError(where, f"has {len(messages)} tags, more than {_MAX_TAGS}")
    tags: dict[str, CustomTag] = {}
    for index, message in enumerate(messages):
        kind = message.WhichOneof("type")
        path = f"{where}[{index}]"
        if kind is None:
            raise ResourceError(path, f"the tag {message.tag!r} must be of some type")
        tags[message.tag] = _TAG_PARSERS[kind](message.tag, getattr(message, kind), path)
    return tuple(tags.values())


def _literal(tag: str, message: Any, where: str) -> CustomTag:
    return CustomTag(tag, TagSource.LITERAL, message.value)


def _environment(tag: str, message: Any, where: str) -> CustomTag:
    return CustomTag(tag, TagSource.ENVIRONMENT, message.name, default=message.default_value)


def _header(tag: str, message: Any, where: str) -> CustomTag:
    return CustomTag(tag, TagSource.HEADER, message.name.lower(), default=message.default_value)


def _format(tag: str, text: str, where: str) -> CustomTag:
    return CustomTag(tag, TagSource.FORMAT, text)


def _metadata(tag: str, message: Any, where: str) -> CustomTag:
    kind = message.kind.WhichOneof("kind")
    if kind is None:
        raise ResourceError(f"{where}.metadata.kind", "must be of some kind")
    key = message.metadata_key
    path = tuple(segment.key for segment in key.path)
    return CustomTag(tag, TagSource(kind), key.key, path, message.default_value)


_TAG_PARSERS: dict[str, Callable[[str, Any, str], CustomTag]] = {
    "literal": _literal,
    "environment": _environment,
    "request_header": _header,
    "value": _format,
    "metadata": _metadata,
}
