"""CSDS: what this process knows of the mesh, as a gRPC service that tools of gRPC and Envoy read.

Source: envoy.service.status.v3.ClientStatusDiscoveryService and gRFC A40, whose clients tell each resource that they
have asked for: as it was accepted last, what they make of it, and which update was refused and why. It differs in two
things. Secrets are left out, as in Envoy's /config_dump. And a resource from before this process began (`last_good`)
is told with its contents while it is still asked for.

The control thread gives the list; messages are made on the thread of the call.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
from envoy.admin.v3 import config_dump_shared_pb2
from envoy.service.status.v3 import csds_pb2, csds_pb2_grpc

from ..control import Control
from ..errors import MeshError
from ..version import VERSION
from ..xds import CachedResource, Status
from ..xds.ads_client import node_message
from .dumped import pack, redact
from .envoy_dump import timestamp
from .redaction import shown_error

__all__ = ["add_csds_servicer"]


def add_csds_servicer(control: Control, server: Any) -> None:
    """Register the service with a grpc.Server or a grpc.aio.Server, as grpc_csds does for grpc-core's own clients."""
    servicer = _AioServicer if isinstance(server, grpc.aio.Server) else _Servicer
    csds_pb2_grpc.add_ClientStatusDiscoveryServiceServicer_to_server(servicer(control), server)


class _Servicer(csds_pb2_grpc.ClientStatusDiscoveryServiceServicer):  # type: ignore[misc]
    """For a grpc.Server."""

    def __init__(self, control: Control) -> None:
        self._control = control

    def FetchClientStatus(self, request: Any, context: Any) -> Any:
        """The status as it is."""
        try:
            return _response(self._control, request)
        except _Refused as error:
            context.abort(error.code, str(error))

    def StreamClientStatus(self, request_iterator: Iterator[Any], context: Any) -> Iterator[Any]:
        """The same, for each request of a stream."""
        for request in request_iterator:
            yield self.FetchClientStatus(request, context)


class _AioServicer(csds_pb2_grpc.ClientStatusDiscoveryServiceServicer):  # type: ignore[misc]
    """For a grpc.aio.Server."""

    def __init__(self, control: Control) -> None:
        self._control = control

    async def FetchClientStatus(self, request: Any, context: Any) -> Any:
        """See `_Servicer`."""
        try:
            return await asyncio.get_running_loop().run_in_executor(None, _response, self._control, request)
        except _Refused as error:
            await context.abort(error.code, str(error))

    async def StreamClientStatus(self, request_iterator: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        """See `_Servicer`."""
        async for request in request_iterator:
            yield await self.FetchClientStatus(request, context)


class _Refused(Exception):
    """A request has no answer."""

    def __init__(self, code: grpc.StatusCode, why: str) -> None:
        super().__init__(why)
        self.code = code


def _response(control: Control, request: Any) -> Any:
    if request.node_matchers:
        raise _Refused(grpc.StatusCode.INVALID_ARGUMENT, "node_matchers: there is one node here, and no choice of it")
    try:
        entries = control.call(lambda: list(control.cache))
    except (MeshError, TimeoutError) as error:
        raise _Refused(grpc.StatusCode.UNAVAILABLE, str(error)) from error
    client = csds_pb2.ClientConfig(node=node_message(control.bootstrap.node))
    client.node.user_agent_version = VERSION
    redact(client.node)
    for kind, name, entry in sorted(entries, key=lambda one: (one[0].type_url, one[1])):
        config = client.generic_xds_configs.add(type_url=kind.type_url, name=name, version_info=entry.version)
        _fill(config, entry)
        if entry.packed and not request.exclude_resource_contents:
            config.xds_config.CopyFrom(pack(kind.type_url, entry.packed))
    return csds_pb2.ClientStatusResponse(config=[client])


def _fill(config: Any, entry: CachedResource) -> None:
    config.client_status = config_dump_shared_pb2.ClientResourceStatus.Value(entry.status.name)
    if entry.updated_at:
        config.last_updated.CopyFrom(timestamp(entry.updated_at))
    if entry.status in (Status.NACKED, Status.RECEIVED_ERROR):
        error = config.error_state
        error.details, error.version_info = shown_error(entry.error), entry.failed_version
        error.last_update_attempt.CopyFrom(timestamp(entry.failed_at))
