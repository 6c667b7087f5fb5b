"""Asking an xDS client what it knows, over CSDS: one of ours, gRPC's own, or a server that tells of its clients.

Source: envoy.service.status.v3.ClientStatusDiscoveryService, gRFC A40.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
from envoy.service.status.v3 import csds_pb2, csds_pb2_grpc

from ..one_line import one_line
from .dumped import plain

__all__ = ["Unanswered", "read_clients"]

# Of a whole mesh; gRPC's own limit is 4 MiB.
_MAX_BYTES = 256 << 20


class Unanswered(Exception):
    """Nobody answers there, or not so; the text says why."""


def read_clients(
    address: str, *, ca: Path | None, certificate: Path | None, key: Path | None, timeout_seconds: float
) -> list[dict[str, Any]]:
    """Ask a CSDS server. Each client has `node`, `user_agent` and `resources`.

    Args:
        ca: Trusted roots, which make it TLS.
        certificate, key: Shown to the server.

    Raises:
        Unanswered: It does not answer, or has no such service.
        OSError: A file cannot be read.
    """
    options = [("grpc.max_receive_message_length", _MAX_BYTES)]
    if ca is not None:
        pair = [path.read_bytes() if path is not None else None for path in (key, certificate)]
        channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(ca.read_bytes(), *pair), options)
    else:
        channel = grpc.insecure_channel(address, options)
    with channel:
        stub = csds_pb2_grpc.ClientStatusDiscoveryServiceStub(channel)
        try:
            response = stub.FetchClientStatus(csds_pb2.ClientStatusRequest(), timeout=timeout_seconds)
        except grpc.RpcError as error:
            raise Unanswered(_why(address, error)) from error
    return [_client(config) for config in response.config]


def _why(address: str, error: Any) -> str:
    code, details = error.code().name, one_line(error.details() or "")[:500]
    if code == "UNIMPLEMENTED":
        return f"{address} has no ClientStatusDiscoveryService (gRFC A40): Mesh.add_csds_servicer adds it to a server"
    return f"{address}: {code}: {details}"


def _client(config: Any) -> dict[str, Any]:
    return {
        "node": config.node.id,
        "user_agent": f"{config.node.user_agent_name} {config.node.user_agent_version}".strip(),
        "scope": config.client_scope,
        "resources": [*map(_resource, config.generic_xds_configs), *map(_by_type, config.xds_config)],
    }


def _resource(one: Any) -> dict[str, Any]:
    return {
        "type": one.type_url,
        "name": one.name,
        "status": _name(one, "client_status", one.client_status),
        "synchronized": _name(one, "config_status", one.config_status),
        "version": one.version_info,
        "updated_at": one.last_updated.ToMilliseconds() / 1000 if one.HasField("last_updated") else None,
        "error": one.error_state.details,
        "error_version": one.error_state.version_info,
        # Others may tell their secrets; nobody is shown them here.
        "contents": plain(one.xds_config.type_url, one.xds_config.value) if one.xds_config.type_url else {},
    }


def _by_type(one: Any) -> dict[str, Any]:
    """Of those who tell a status of each type alone, as servers do of their clients."""
    kind = one.WhichOneof("per_xds_config") or ""
    return {
        "type": kind.removesuffix("_config"),
        "name": "",
        "status": _name(one, "client_status", one.client_status).removeprefix("CLIENT_"),
        "synchronized": _name(one, "status", one.status),
        "version": "",
        "updated_at": None,
        "error": "",
        "error_version": "",
        "contents": {},
    }


def _name(message: Any, field: str, value: int) -> str:
    known = message.DESCRIPTOR.fields_by_name[field].enum_type.values_by_number.get(value)
    return str(known.name) if known is not None else str(value)
