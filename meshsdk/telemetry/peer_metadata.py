"""Peer metadata over HTTP: two headers by which workloads of the mesh tell each other who they are.

`x-envoy-peer-metadata-id` has the node's id, and `x-envoy-peer-metadata` a google.protobuf.Struct, serialized with its
keys in order, in base 64. Clients send both; a server answers each of them that came. Who has read the metadata of an
id reads them no more.

The Struct is written and read here, and not by protobuf: it is strangers' input on every request, of which little is
wanted, and a process that does without protobuf otherwise goes on doing so.

Source: Envoy contrib/istio/filters/http/peer_metadata/source/peer_metadata.cc (MXMethod, MXPropagationMethod);
protobuf, struct.proto and the encoding specification.
"""

from __future__ import annotations

import base64
import binascii
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .workload import CANONICAL_NAME, CANONICAL_REVISION, UNKNOWN, Workload, workload_of_peer

__all__ = ["METADATA_HEADER", "METADATA_ID_HEADER", "OVER_GRPC_HEADER", "Peers", "own_headers"]

METADATA_HEADER = b"x-envoy-peer-metadata"
METADATA_ID_HEADER = b"x-envoy-peer-metadata-id"
# grpc-core takes the metadata for those of its own CSM observability, and tells applications nothing of them. Between
# processes of this library they go by this name besides.
OVER_GRPC_HEADER = b"x-meshsdk-peer-metadata"

# A sidecar's have some hundred bytes.
MAX_HEADER_BYTES = 8192
MAX_ID_BYTES = 512
_MAX_DEPTH = 4

# Ids that are remembered; a pod has one for its life, and workloads have many pods.
MAX_IDS = 2048
# Of all messages in it. A sidecar's has some fifty, and each takes time to read before anybody has let the peer in.
_MAX_FIELDS = 512
# Workloads that peers name which prove nothing. A name costs a stranger nothing either, so beyond this new ones stay
# unknown.
MAX_STRANGERS = 256

Header = tuple[bytes, bytes]


def own_headers(node_id: str, metadata: Mapping[str, Any], own: Workload) -> tuple[Header, Header]:
    """The headers that tell who this process is: the id, then the metadata."""
    said_labels = {
        CANONICAL_NAME: own.canonical_service,
        CANONICAL_REVISION: own.canonical_revision,
        "app": own.app,
        "version": own.version,
    }
    labels = {name: value for name, value in said_labels.items() if _is_said(value)}
    said: dict[str, Any] = {
        "NAME": metadata.get("NAME", ""),
        "NAMESPACE": own.namespace,
        "WORKLOAD_NAME": own.name,
        "CLUSTER_ID": own.cluster,
        "OWNER": metadata.get("OWNER", ""),
    }
    kept: dict[str, Any] = {name: value for name, value in said.items() if isinstance(value, str) and _is_said(value)}
    kept["LABELS"] = labels
    encoded = base64.b64encode(_struct(kept))
    if not node_id:
        # Peers remember by the id, so it must be this workload's alone.
        name = f"{socket.gethostname()}-{own.name}.{own.namespace}"
        node_id = f"sidecar~127.0.0.1~{name}~{own.namespace}.svc.cluster.local"
    return (METADATA_ID_HEADER, node_id.encode("ascii", "replace")), (METADATA_HEADER, encoded)


def _is_said(value: str) -> bool:
    return value not in ("", UNKNOWN)


class Peers:
    """Whom the metadata of peers have told of, by their ids: of those who call, or of those who are called.

    In Istio nothing vouches for an id or for what stands behind it. Here what one principal says of an id says nothing
    to another, so that a stranger cannot give a peer of the mesh another name; and strangers are remembered apart, so
    that many of them make no peer forgotten.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, bytes], Workload] = {}
        self._known_strangers: dict[tuple[str, bytes], Workload] = {}
        self._strangers: set[Workload] = set()

    def find(self, principal: str, peer_id: bytes, metadata: bytes) -> Workload | None:
        """The peer; None where it cannot be told.

        Args:
            principal: Its SPIFFE ID; empty where it has proven none.
            peer_id: The header of the id; empty where it is missing.
            metadata: The other header.
        """
        # A sidecar that gets no id reads the metadata each time.
        key = (principal, peer_id or metadata)
        remembered = self._known if principal else self._known_strangers
        known = remembered.get(key)
        if known is not None:
            return known
        if not metadata or len(metadata) > MAX_HEADER_BYTES or len(peer_id) > MAX_ID_BYTES:
            return None
        try:
            told = _Reader().read(base64.b64decode(metadata + b"=" * (-len(metadata) % 4), validate=True))
        except (binascii.Error, ValueError):
            return None
        found = workload_of_peer(told)
        if not principal and found not in self._strangers:
            if len(self._strangers) >= MAX_STRANGERS:
                return None
            self._strangers.add(found)
        if len(remembered) >= MAX_IDS:
            for oldest in list(remembered)[: MAX_IDS // 4]:
                remembered.pop(oldest, None)  # Another thread may be at it too.
        remembered[key] = found
        return found


# Fields of struct.proto, with their wire types: Struct.fields, the entry of a map, and Value.
_LENGTH, _DOUBLE, _VARINT, _FLOAT = 2, 1, 0, 5
_FIELDS = 1 << 3 | _LENGTH
_KEY, _VALUE = 1 << 3 | _LENGTH, 2 << 3 | _LENGTH
_STRING, _STRUCT = 3 << 3 | _LENGTH, 5 << 3 | _LENGTH


def _struct(values: Mapping[str, Any]) -> bytes:
    entries = bytearray()
    for name in sorted(values):
        value = values[name]
        if isinstance(value, Mapping):
            content = _delimited(_STRUCT, _struct(value))
        else:
            content = _delimited(_STRING, str(value).encode("utf-8", "replace"))
        entries += _delimited(_FIELDS, _delimited(_KEY, name.encode()) + _delimited(_VALUE, content))
    return bytes(entries)


def _delimited(tag: int, content: bytes) -> bytes:
    length, size = len(content), bytearray()
    while length > 0x7F:
        size.append(length & 0x7F | 0x80)
        length >>= 7
    size.append(length)
    return bytes([tag, *size]) + content


class _Reader:
    """Reads one Struct, and no more of it than a peer has to say."""

    def __init__(self) -> None:
        self._left = _MAX_FIELDS

    def read(self, data: bytes, depth: int = 0) -> dict[str, Any]:
        """Texts and Structs of a Struct; values of other kinds are left out.

        Raises:
            ValueError: It is none.
        """
        if depth > _MAX_DEPTH:
            raise ValueError("a Struct within too many others")
        found: dict[str, Any] = {}
        for tag, content in self._parts(data):
            if tag != _FIELDS:
                continue
            entry = dict(self._parts(content))
            value = dict(self._parts(entry.get(_VALUE, b"")))
            name = entry.get(_KEY, b"").decode("utf-8")
            if _STRING in value:
                found[name] = value[_STRING].decode("utf-8")
            elif _STRUCT in value:
                found[name] = self.read(value[_STRUCT], depth + 1)
        return found

    def _parts(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Tag and content of each field of a message.

        Raises:
            ValueError: It is none, or there are too many.
        """
        place, end = 0, len(data)
        while place < end:
            self._left -= 1
            if self._left < 0:
                raise ValueError("too many fields")
            tag, place = _varint(data, place)
            kind = tag & 7
            if kind == _VARINT:
                length, place = 0, _varint(data, place)[1]
            elif kind == _LENGTH:
                length, place = _varint(data, place)
            elif kind in (_DOUBLE, _FLOAT):
                length = struct.calcsize("d") if kind == _DOUBLE else struct.calcsize("f")
            else:
                raise ValueError("no protobuf")
            if place + length > end:
                raise ValueError("cut short")
            yield tag, data[place : place + length]
            place += length


def _varint(data: Sequence[int], place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if place >= len(data) or shift > 63:
            raise ValueError("no varint")
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, place
