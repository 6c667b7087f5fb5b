"""/config_dump: the configuration in Envoy's format, so that `istioctl proxy-config --file` and scripts read it.

Source: envoy.admin.v3.ConfigDump and Envoy docs, operations/admin (`GET /config_dump`): sections in this order, each an
Any; `include_eds` adds endpoints, `resource` is one repeated field of one section, whose elements stand alone,
`name_regex` and `mask` leave the rest out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import re2
from google.protobuf import json_format, struct_pb2
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from ..bootstrap import Bootstrap
from ..xds import CachedResource, Status
from .dumped import pack
from .redaction import shown_error

__all__ = ["BadQuery", "config_dump", "timestamp"]

# Kind, name and what is known of each.
Entries = Iterable[tuple[str, str, CachedResource]]

_LISTENER = "type.googleapis.com/envoy.config.listener.v3.Listener"
_ROUTES = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
_CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
_ENDPOINTS = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"


class BadQuery(ValueError):
    """What is asked for is wrong; the text says how."""


def config_dump(
    entries: Entries,
    updated_at: Mapping[tuple[str, str], float],
    bootstrap: Bootstrap,
    query: Mapping[str, str],
) -> dict[str, Any]:
    """The dump.

    Args:
        entries: Of the cache.
        updated_at: When each came, by type URL and name.
        query: Of the request.

    Raises:
        BadQuery: An expression is none.
        LookupError: There is no such resource.
    """
    sections = _sections(list(entries), updated_at, bootstrap, include_eds="include_eds" in query)
    keep = _name_filter(query.get("name_regex", ""))
    mask = [path.split(".") for path in query.get("mask", "").split(",") if path]
    resource = query.get("resource", "")
    if resource:
        elements = _elements(sections, resource)
        if elements is None:
            raise LookupError(f"{resource} not found in config dump")
        elements = [one for one in elements if keep(_name_of(one))]
        return {"configs": [_masked(one, mask) for one in elements]}
    for section in sections:
        for field, elements in section.items():
            if isinstance(elements, list):
                section[field] = [one for one in elements if keep(_name_of(one))]
    if query.get("name_regex"):
        sections = [one for one in sections if any(isinstance(value, list) and value for value in one.values())]
    return {"configs": [_masked(one, mask) for one in sections]}


def _sections(
    entries: list[tuple[str, str, CachedResource]],
    updated_at: Mapping[tuple[str, str], float],
    bootstrap: Bootstrap,
    *,
    include_eds: bool,
) -> list[dict[str, Any]]:
    from envoy.admin.v3 import config_dump_pb2, config_dump_shared_pb2

    clusters, routes = config_dump_shared_pb2.ClustersConfigDump(), config_dump_shared_pb2.RoutesConfigDump()
    listeners, endpoints = config_dump_shared_pb2.ListenersConfigDump(), config_dump_shared_pb2.EndpointsConfigDump()
    places: dict[str, tuple[Any, str]] = {
        _CLUSTER: (clusters.dynamic_active_clusters, "cluster"),
        _ROUTES: (routes.dynamic_route_configs, "route_config"),
        _ENDPOINTS: (endpoints.dynamic_endpoint_configs, "endpoint_config"),
    }
    for type_url, name, entry in sorted(entries, key=lambda one: one[:2]):
        if not entry.packed and entry.status in (Status.REQUESTED, Status.DOES_NOT_EXIST, Status.TIMEOUT):
            continue
        at = updated_at.get((type_url, name))
        if type_url == _LISTENER:
            dynamic = listeners.dynamic_listeners.add(name=name)
            if entry.packed:
                _fill(dynamic.active_state, "listener", type_url, entry, at)
            _tell(dynamic, entry)
        elif type_url in places:
            place, field = places[type_url]
            dynamic = place.add()
            if entry.packed:
                _fill(dynamic, field, type_url, entry, at)
            _tell(dynamic, entry)
    versions = [entry.version for type_url, _, entry in entries if type_url == _CLUSTER and entry.version]
    clusters.version_info = listeners.version_info = max(versions, default="")
    dumps: list[Message] = [_bootstrap_dump(config_dump_pb2, bootstrap), clusters]
    dumps += [endpoints] if include_eds else []
    dumps += [listeners, config_dump_shared_pb2.ScopedRoutesConfigDump(), routes]
    dumps += [config_dump_pb2.SecretsConfigDump()]
    return [_as_json(one) for one in dumps]


def _as_json(message: Message) -> dict[str, Any]:
    shown: dict[str, Any] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return {"@type": f"type.googleapis.com/{message.DESCRIPTOR.full_name}", **shown}


def _fill(state: Any, field: str, type_url: str, entry: CachedResource, at: float | None) -> None:
    state.version_info = entry.version
    getattr(state, field).CopyFrom(pack(type_url, entry.packed))
    if at is not None:
        state.last_updated.CopyFrom(timestamp(at))


def _tell(state: Any, entry: CachedResource) -> None:
    """What the client makes of it (envoy.admin.v3.ClientResourceStatus), and why an update was refused."""
    from envoy.admin.v3 import config_dump_shared_pb2

    state.client_status = config_dump_shared_pb2.ClientResourceStatus.Value(entry.status.name)
    if entry.status is Status.NACKED:
        state.error_state.details = shown_error(entry.error)


def timestamp(seconds: float) -> Timestamp:
    """Seconds since the epoch, as protobuf has them."""
    made = Timestamp()
    made.FromMilliseconds(int(seconds * 1000))
    return made


def _bootstrap_dump(config_dump_pb2: Any, bootstrap: Bootstrap) -> Message:
    """What istioctl reads of it: the node, and which version it says it is."""
    dump = config_dump_pb2.BootstrapConfigDump()
    fill_node(dump.bootstrap.node, bootstrap)
    made: Message = dump
    return made


def fill_node(node: Any, bootstrap: Bootstrap) -> None:
    """The node, as a message that has its fields."""
    from ..version import VERSION

    own = bootstrap.node
    node.id, node.cluster = own.id, own.cluster
    metadata = struct_pb2.Struct()
    metadata.update({name: value for name, value in own.metadata.items() if _is_plain(value)})
    node.metadata.CopyFrom(metadata)
    node.user_agent_name, node.user_agent_version = "meshsdk", VERSION


def _is_plain(value: object) -> bool:
    return isinstance(value, str | bool | int | float | dict | list)


def _name_filter(pattern: str) -> Any:
    if not pattern:
        return lambda name: True
    options = re2.Options()
    options.log_errors = False
    try:
        compiled = re2.compile(pattern, options=options)
    except re2.error as error:
        raise BadQuery(f"name_regex is no expression of RE2: {_text(error)}") from None
    return lambda name: compiled.fullmatch(name) is not None


def _text(error: Exception) -> str:
    said = error.args[0] if error.args else ""
    return said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)


def _name_of(element: Mapping[str, Any]) -> str:
    if "name" in element:
        return str(element["name"])
    for field in ("cluster", "route_config", "endpoint_config"):
        inner = element.get(field)
        if isinstance(inner, dict):
            return str(inner.get("name") or inner.get("cluster_name") or "")
    return ""


def _elements(sections: list[dict[str, Any]], resource: str) -> list[dict[str, Any]] | None:
    """The elements of a repeated field, wherever it is; None where no section has it."""
    known = {
        "dynamic_active_clusters": "Clusters",
        "dynamic_listeners": "Listeners",
        "dynamic_route_configs": "Routes",
        "dynamic_endpoint_configs": "Endpoints",
    }
    section = known.get(resource)
    if section is None:
        return [] if resource in _EMPTY else None
    for one in sections:
        if one["@type"].endswith(f".{section}ConfigDump"):
            name = _TYPES_OF_ELEMENTS[resource]
            return [{"@type": f"type.googleapis.com/envoy.admin.v3.{name}", **each} for each in one.get(resource, [])]
    return []


_EMPTY = frozenset(
    "static_clusters dynamic_warming_clusters static_listeners static_route_configs static_endpoint_configs"
    " static_secrets dynamic_active_secrets dynamic_warming_secrets inline_scoped_route_configs"
    " dynamic_scoped_route_configs".split()
)
_TYPES_OF_ELEMENTS = {
    "dynamic_active_clusters": "ClustersConfigDump.DynamicCluster",
    "dynamic_listeners": "ListenersConfigDump.DynamicListener",
    "dynamic_route_configs": "RoutesConfigDump.DynamicRouteConfig",
    "dynamic_endpoint_configs": "EndpointsConfigDump.DynamicEndpointConfig",
}


def _masked(value: Any, paths: list[list[str]]) -> Any:
    """What a FieldMask leaves of a message; lists are gone through."""
    if not paths or not isinstance(value, dict):
        return value
    kept: dict[str, Any] = {"@type": value["@type"]} if "@type" in value else {}
    for name in dict.fromkeys(path[0] for path in paths):
        if name not in value:
            continue
        deeper = [path[1:] for path in paths if path[0] == name]
        inner, below = value[name], [path for path in deeper if path]
        if len(below) < len(deeper):
            kept[name] = inner
        else:
            kept[name] = [_masked(one, below) for one in inner] if isinstance(inner, list) else _masked(inner, below)
    return kept
