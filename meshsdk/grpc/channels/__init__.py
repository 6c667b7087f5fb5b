"""What a caller holds: channels, their calls, and interceptors for channels of other makers."""

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
]
