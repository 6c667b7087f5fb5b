"""What a caller holds: channels, their calls, and interceptors for channels of other makers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc

from ..engine import RelayedMesh
from .aio_channel import MeshAioChannel
from .call_error import MeshRpcError
from .channel import MeshChannel
from .interceptors import AIO_INTERCEPTORS, MeshClientInterceptor

__all__ = [
    "AIO_INTERCEPTORS",
    "MeshAioChannel",
    "MeshChannel",
    "MeshClientInterceptor",
    "MeshRpcError",
    "open_channel",
]


def open_channel(
    relayed: RelayedMesh,
    target: str,
    options: Sequence[tuple[str, Any]] | None,
    interceptors: Sequence[Any],
    compression: grpc.Compression | None,
    credentials: grpc.ChannelCredentials | None,
) -> Any:
    """The channel of `Mesh.channel`."""
    channel = MeshChannel(relayed, target, options=options, compression=compression, credentials=credentials)
    return grpc.intercept_channel(channel, *interceptors) if interceptors else channel
