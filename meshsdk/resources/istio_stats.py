"""What Istio's filter istio.stats is told of its metrics (stats.PluginConfig), as data.

No Python module of that message is published, so it is described here, as far as it matters. istiod sends it as itself;
raw configuration and older control planes write it as a TypedStruct.

Source: envoyproxy/envoy contrib/envoy/extensions/filters/http/istio_stats/v3/istio_stats.proto.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from google.protobuf.message import DecodeError
from msgspec import Struct

from ..errors import ResourceError
from . import protos
from .notes import Notes

__all__ = ["METRICS", "MetricTags", "StatsConfig", "is_stats", "parse_stats"]

# The names of its metrics, which are `istio_` before these.
METRICS = (
    *("requests_total", "request_duration_milliseconds", "request_bytes", "response_bytes"),
    *("request_messages_total", "response_messages_total"),
    *("tcp_connections_opened_total", "tcp_connections_closed_total"),
    *("tcp_sent_bytes_total", "tcp_received_bytes_total"),
)

_TYPE = "stats.PluginConfig"
_TYPED_STRUCTS = ("xds.type.v3.TypedStruct", "udpa.type.v1.TypedStruct")


class MetricTags(Struct, frozen=True, gc=False):
    """What is changed of one metric, or of all (MetricConfig).

    Attributes:
        name: One of `METRICS`; empty is all.
        removed: Names of tags.
        values: Names of tags, and the expressions that give their values.
        is_dropped: There is no such metric.
    """

    name: str = ""
    removed: tuple[str, ...] = ()
    values: tuple[tuple[str, str], ...] = ()
    is_dropped: bool = False


class StatsConfig(Struct, frozen=True, gc=False):
    """A filter istio.stats.

    Attributes:
        where: Path for messages.
    """

    metrics: tuple[MetricTags, ...]
    where: str = ""


def parse_stats(filters: Any, where: str, notes: Notes) -> StatsConfig | None:
    """What the filter istio.stats of a connection manager changes; None where there is none, or it changes nothing.

    Raises:
        ResourceError: It cannot be read.
    """
    for index, http_filter in enumerate(filters):
        path = f"{where}[{index}].typed_config"
        message = _message_of(http_filter.typed_config, path)
        if message is None or http_filter.disabled:
            continue
        for definition in message.definitions:
            notes.add(f"{path}.definitions", f"the metric {definition.name!r} is not counted: only Istio's own are")
        metrics = tuple(_metric(one, f"{path}.metrics[{place}]", notes) for place, one in enumerate(message.metrics))
        return StatsConfig(metrics, path) if metrics else None
    return None


def is_stats(container: Any) -> bool:
    """Whether an Any holds the filter's configuration."""
    kind = container.type_url.rpartition("/")[2]
    return kind == _TYPE or (kind in _TYPED_STRUCTS and _TYPE.encode() in container.value)


def _message_of(container: Any, where: str) -> Any | None:
    if not is_stats(container):
        return None
    message = _plugin_config()()
    try:
        if container.type_url.rpartition("/")[2] == _TYPE:
            message.ParseFromString(container.value)
            return message
        # The two kinds differ in nothing but their names.
        typed = protos.typed_struct_pb2.TypedStruct.FromString(container.value)
        if typed.type_url.rpartition("/")[2] != _TYPE:
            return None
        json = protos.json_format
        json.ParseDict(json.MessageToDict(typed.value), message, ignore_unknown_fields=True)
    except (DecodeError, protos.json_format.ParseError) as error:
        raise ResourceError(where, f"is no {_TYPE}: {error}") from error
    return message


def _metric(message: Any, where: str, notes: Notes) -> MetricTags:
    if message.name and message.name not in METRICS:
        notes.add(f"{where}.name", f"{message.name!r} is none of Istio's metrics")
    if message.match:
        notes.add(f"{where}.match", "has no effect, in Istio neither")
    values = tuple(sorted(message.dimensions.items()))
    return MetricTags(message.name, tuple(message.tags_to_remove), values, message.drop)


@cache
def _plugin_config() -> Any:
    """The message's class, in a pool of its own: whoever has the real one may load that, too."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kind = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="meshsdk/stats.proto", package="stats", syntax="proto3")

    def add(message: Any, name: str, number: int, field: int, *, many: bool = False, of: str = "") -> None:
        label = kind.LABEL_REPEATED if many else kind.LABEL_OPTIONAL
        message.field.add(name=name, number=number, type=field, label=label, type_name=of or None)

    metric = file.message_type.add(name="MetricConfig")
    entry = metric.nested_type.add(name="DimensionsEntry")
    entry.options.map_entry = True
    add(entry, "key", 1, kind.TYPE_STRING)
    add(entry, "value", 2, kind.TYPE_STRING)
    add(metric, "dimensions", 1, kind.TYPE_MESSAGE, many=True, of=".stats.MetricConfig.DimensionsEntry")
    add(metric, "name", 2, kind.TYPE_STRING)
    add(metric, "tags_to_remove", 3, kind.TYPE_STRING, many=True)
    add(metric, "match", 4, kind.TYPE_STRING)
    add(metric, "drop", 5, kind.TYPE_BOOL)
    definition = file.message_type.add(name="MetricDefinition")
    add(definition, "name", 1, kind.TYPE_STRING)
    add(definition, "value", 2, kind.TYPE_STRING)
    plugin = file.message_type.add(name="PluginConfig")
    add(plugin, "metrics", 8, kind.TYPE_MESSAGE, many=True, of=".stats.MetricConfig")
    add(plugin, "definitions", 9, kind.TYPE_MESSAGE, many=True, of=".stats.MetricDefinition")
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("stats.PluginConfig"))
