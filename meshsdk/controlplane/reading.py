"""What one document says, by itself: whatever depends on another document is found out where they are joined."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from msgspec import Struct

from ..errors import ConfigError
from .destination_rule import parse_destination_rule
from .documents import Document
from .fields import Fields
from .gateway_api import PendingRoute
from .istio import parse_service_entry, parse_workload_entry
from .kinds import (
    CONFIG_MAP,
    GATEWAY,
    NETWORKING,
    POLICY_KINDS,
    SECURITY,
    TELEMETRY,
    Kind,
    UnreadablePolicy,
    did_you_mean,
)
from .kubernetes import Meta, parse_endpoint_slice, parse_endpoints, parse_node, parse_pod, parse_service
from .memo import Memo
from .mesh_config import MESH_CONFIG, may_be_mesh_config, parse_mesh_config
from .raw import parse_raw
from .security_policies import (
    is_for_gateways,
    parse_authorization_policy,
    parse_peer_authentication,
    parse_request_authentication,
)
from .sidecar import parse_sidecar
from .telemetry_rules import parse_telemetry
from .traffic_policy import DestinationRule
from .virtual_service import parse_virtual_service

__all__ = ["COMPARED", "VIRTUAL_SERVICE", "FileOfDocuments", "FileReading", "Reading", "named", "read_all"]

# Of a file's path, and its documents.
FileOfDocuments = tuple[Path, tuple[Document, ...]]

# What Kubernetes knows of an object's metadata (API reference, ObjectMeta).
_METADATA = (
    *("annotations", "clusterName", "creationTimestamp", "deletionGracePeriodSeconds", "deletionTimestamp"),
    *("finalizers", "generateName", "generation", "labels", "managedFields", "name", "namespace", "ownerReferences"),
    *("resourceVersion", "selfLink", "uid"),
)


class Reading(Struct, eq=False):
    """A document, read. It does not change once it is made.

    Attributes:
        where: The document, with its kind and name as far as they are known.
        digest: Of what it says, and of whether that can be had; empty of what has no effect.
        meta: Of an object that is ours; None where it cannot be read.
        value: What it was parsed to; None where there is nothing to be had from it.
        is_unreadable_policy: What is wrong is, or may be, a security policy.
    """

    document: Document
    where: str
    digest: bytes = b""
    meta: Meta | None = None
    value: Any = None
    warnings: Sequence[str] = ()
    errors: Sequence[str] = ()
    is_unreadable_policy: bool = False

    @property
    def is_raw(self) -> bool:
        """Whether it is an xDS resource, and no object."""
        return "@type" in self.document.data


class FileReading(Struct, frozen=True, eq=False):
    """A file, read. There are many objects of a few kinds, which need not be looked at one by one.

    Attributes:
        digest: Of all that has an effect.
        raw: xDS resources.
        values: Objects that stand beside any others, by kind; routes of Gateway API are among the VirtualServices.
        others: What must be compared with others, what something is to be told of, and what is not ours.
    """

    digest: bytes
    raw: Sequence[Reading]
    values: Mapping[Kind, list[Any]]
    others: Sequence[Reading]


VIRTUAL_SERVICE = (NETWORKING, "VirtualService")

# Of which there may be one of a name, or of a host.
COMPARED: frozenset[Kind] = frozenset(
    [*POLICY_KINDS, CONFIG_MAP, ("", "Service"), (NETWORKING, "ServiceEntry")],
)


def read_all(files: Sequence[FileOfDocuments], domain: str, memo: Memo) -> list[FileReading]:
    """The documents of all files, in their order."""
    return [memo.keep(path, (found, domain), partial(_read_file, found, domain)) for path, found in files]


def _read_file(documents: Iterable[Document], domain: str, memo: Memo) -> FileReading:
    readings = [memo.keep(one.where, (one, domain), partial(_read, one, domain)) for one in documents]
    values: defaultdict[Kind, list[Any]] = defaultdict(list)
    others = []
    for one in readings:
        kind = one.document.kind
        if one.value is not None and kind is not None and kind not in COMPARED:
            values[VIRTUAL_SERVICE if isinstance(one.value, PendingRoute) else kind].append(one.value)
            if not one.warnings and not one.errors:
                continue
        if not one.is_raw:
            others.append(one)
    digest = hashlib.blake2b(b"".join([one.digest for one in readings]), digest_size=16).digest()
    return FileReading(digest, [one for one in readings if one.is_raw], values, others)


def _read(document: Document, domain: str, memo: Memo) -> Reading:
    warnings: list[str] = []
    errors: list[ConfigError] = []
    reading = Reading(document, document.where)
    if document.kind is not None or document.fault is not None or reading.is_raw:
        reading.digest = _digest_of(document.data)
    try:
        if document.fault is not None:
            # A new one each time: what is raised holds all that was at hand then, and the document holds its fault.
            raise type(document.fault)(document.fault.where, document.fault.problem)
        if reading.is_raw:
            reading.value = parse_raw(document, warnings)
        elif document.kind is not None:
            _read_object(reading, document.kind, domain, warnings, errors)
    except ConfigError as error:
        errors.append(error)
        reading.is_unreadable_policy = isinstance(error, UnreadablePolicy) or _may_be_policy(document)
    reading.warnings, reading.errors = warnings, [str(error) for error in errors]
    if reading.is_raw and (errors or warnings):
        # It may be that a file is missing, and when that comes the document is not edited.
        memo.lasts = False
        reading.digest += _digest_of(reading.errors)
    return reading


def _digest_of(data: Any) -> bytes:
    """The same for the same fields in another order."""
    try:
        text = json.dumps(data, sort_keys=True)
        if '"true":' in text or '"false":' in text:
            text += repr(data)  # As a key, JSON writes `true` as it writes `"true"`; no other key is anything but text.
    except TypeError:
        text = repr(data)  # A key that is no string has no place among the others.
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()


def _may_be_policy(document: Document) -> bool:
    is_mesh_config = document.kind == CONFIG_MAP and may_be_mesh_config(document.data)
    return document.kind in POLICY_KINDS or is_mesh_config


def named(document: Document) -> str:
    """Kind and name of a document, as far as it has them."""
    kind, metadata = document.data.get("kind"), document.data.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if not isinstance(kind, str):
        return "a document without a kind"
    return f"{kind}/{name}" if isinstance(name, str) and name.isprintable() else kind


def _read_object(reading: Reading, kind: Kind, domain: str, warnings: list[str], errors: list[ConfigError]) -> None:
    fields = Fields(reading.where, reading.document.data, warnings)
    fields.ignore("apiVersion", "kind")
    meta = _read_meta(fields, domain)
    fields.where = f"{reading.where} {kind[1]}/{meta.name if meta.name.isprintable() else ascii(meta.name)}"
    reading.where, reading.meta = fields.where, meta
    reading.value = _READERS[kind](fields, meta, errors)
    fields.ignore("status")
    if kind in POLICY_KINDS:
        fields.finish_exactly()
    else:
        fields.finish()


def _read_meta(fields: Fields, domain: str) -> Meta:
    metadata = fields.child("metadata")
    if metadata is None:
        raise fields.error("metadata", "must be set")
    meta = Meta(
        name=metadata.required_text("name"),
        namespace=metadata.namespace("namespace", "default"),
        created=metadata.text("creationTimestamp"),
        is_deleted="deletionTimestamp" in metadata,
        annotations=metadata.labels("annotations"),
        labels=metadata.labels("labels"),
        domain=domain,
        owner=_owner_of(metadata),
    )
    metadata.ignore(*_METADATA)
    for unknown in metadata.unread:
        # Without its namespace or labels an object is another one.
        raise metadata.error(unknown, f"is not known{did_you_mean(unknown, _METADATA)}")
    return meta


def _owner_of(metadata: Fields) -> tuple[str, str] | None:
    """What controls an object and has made its name; whatever else stands there is no error: it is Kubernetes' own."""
    if not isinstance(metadata.raw("generateName"), str):
        return None
    references = metadata.raw("ownerReferences")
    for one in references if isinstance(references, list) else ():
        if isinstance(one, dict) and one.get("controller") is True:
            kind, name = one.get("kind"), one.get("name")
            return (kind, name) if isinstance(kind, str) and isinstance(name, str) else None
    return None


def _spec(fields: Fields) -> Fields:
    spec = fields.child("spec")
    if spec is None:
        raise fields.error("spec", "must be set")
    return spec


Reader = Callable[[Fields, Meta, list[ConfigError]], Any]


def _of_spec(parse: Callable[[Fields, Meta], Any]) -> Reader:
    return lambda fields, meta, errors: parse(_spec(fields), meta)


def _of_object(parse: Callable[[Fields, Meta], Any]) -> Reader:
    return lambda fields, meta, errors: parse(fields, meta)


def _of_policy(parse: Callable[[Fields, Meta], Any]) -> Reader:
    """None where it is for gateways only, as proxies beside applications have it."""

    def read(fields: Fields, meta: Meta, errors: list[ConfigError]) -> Any:
        spec = _spec(fields)
        if not is_for_gateways(spec):
            return parse(spec, meta)
        fields.note("is for gateways only, and has no effect in a process")
        return None

    return read


def _read_authorization_policy(fields: Fields, meta: Meta, errors: list[ConfigError]) -> Any:
    return _of_policy(lambda spec, meta: parse_authorization_policy(spec, meta, fields.where))(fields, meta, errors)


def _read_destination_rule(fields: Fields, meta: Meta, errors: list[ConfigError]) -> DestinationRule:
    spec = _spec(fields)
    try:
        return parse_destination_rule(spec, meta)
    except ConfigError as error:
        host = spec.raw("host")
        if not isinstance(host, str) or not host:
            raise
        errors.append(error)
        return DestinationRule(meta.full_host(host), meta.namespace, age=meta.age, is_broken=True)


def _read_route(*, is_grpc: bool) -> Reader:
    def read(fields: Fields, meta: Meta, errors: list[ConfigError]) -> PendingRoute:
        spec = _spec(fields)
        return PendingRoute(spec.where, fields.raw("spec"), meta, is_grpc)

    return read


def _read_reference_grant(fields: Fields, meta: Meta) -> None:
    fields.ignore("spec")
    fields.warn("spec", "is for gateways, and has no effect: in the mesh a route needs no grant, as in Istio")


def _read_config_map(fields: Fields, meta: Meta, errors: list[ConfigError]) -> Any:
    fields.ignore("data", "binaryData", "immutable")
    if meta.name == MESH_CONFIG:
        return parse_mesh_config(fields)
    if may_be_mesh_config({"metadata": {"name": meta.name}, "data": fields.raw("data")}):
        raise fields.error(
            "metadata.name", f"{meta.name!r} with data.mesh, or without data; Istio's MeshConfig is {MESH_CONFIG!r}"
        )
    return None


_READERS: dict[Kind, Reader] = {
    ("", "Service"): _of_spec(lambda spec, meta: [parse_service(spec, meta)]),
    ("", "Pod"): _of_object(parse_pod),
    ("", "Node"): _of_object(parse_node),
    ("", "Endpoints"): _of_object(parse_endpoints),
    ("discovery.k8s.io", "EndpointSlice"): _of_object(parse_endpoint_slice),
    (NETWORKING, "WorkloadEntry"): _of_spec(parse_workload_entry),
    (NETWORKING, "ServiceEntry"): _of_spec(parse_service_entry),
    VIRTUAL_SERVICE: lambda fields, meta, errors: parse_virtual_service(_spec(fields), meta, errors),
    (NETWORKING, "DestinationRule"): _read_destination_rule,
    (NETWORKING, "Sidecar"): _of_spec(parse_sidecar),
    (TELEMETRY, "Telemetry"): _of_policy(parse_telemetry),
    (SECURITY, "PeerAuthentication"): _of_policy(parse_peer_authentication),
    (SECURITY, "RequestAuthentication"): _of_policy(parse_request_authentication),
    (SECURITY, "AuthorizationPolicy"): _read_authorization_policy,
    CONFIG_MAP: _read_config_map,
    (GATEWAY, "HTTPRoute"): _read_route(is_grpc=False),
    (GATEWAY, "GRPCRoute"): _read_route(is_grpc=True),
    (GATEWAY, "ReferenceGrant"): _of_object(_read_reference_grant),
}
