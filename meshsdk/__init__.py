"""meshsdk puts a Python process on a service mesh, without a sidecar.

    import meshsdk

    mesh = meshsdk.Mesh()                  # finds its configuration in the environment
    with mesh.client() as client:          # an httpx.Client
        client.get("http://reviews:9080/reviews/1")

The names below are the public API; everything else is private by its place in a subpackage.
"""

import importlib
from typing import TYPE_CHECKING, Any

from . import deadline
from .errors import (
    BootstrapError,
    CircuitOpenError,
    ConfigError,
    IdentityError,
    MeshError,
    NoHealthyEndpointError,
    NoRouteError,
    PeerIdentityError,
    RequestError,
    RequestTimeoutError,
    ResourceError,
    UnsupportedFeatureError,
)
from .version import VERSION

if TYPE_CHECKING:
    from .access_log import AccessLog
    from .decision import Decision
    from .grpc.channels import MeshRpcError
    from .grpc.servers import LoadReport, LoadReports, current_load_report
    from .http import AsyncMeshTransport, MeshResponseInfo, MeshTransport
    from .mesh import Mesh
    from .mesh_status import MeshStatus

__version__ = VERSION
"""The version of meshsdk."""

__all__ = [
    "AccessLog",
    "AsyncMeshTransport",
    "BootstrapError",
    "CircuitOpenError",
    "ConfigError",
    "Decision",
    "IdentityError",
    "LoadReport",
    "LoadReports",
    "Mesh",
    "MeshError",
    "MeshResponseInfo",
    "MeshRpcError",
    "MeshStatus",
    "MeshTransport",
    "NoHealthyEndpointError",
    "NoRouteError",
    "PeerIdentityError",
    "RequestError",
    "RequestTimeoutError",
    "ResourceError",
    "UnsupportedFeatureError",
    "__version__",
    "current_load_report",
    "deadline",
]


# What not every process needs, and what takes time to import.
_LOADED_WHEN_USED = {
    "AccessLog": ".access_log",
    "AsyncMeshTransport": ".http",
    "Decision": ".decision",
    "LoadReport": ".grpc.servers",
    "LoadReports": ".grpc.servers",
    "Mesh": ".mesh",
    "MeshResponseInfo": ".http",
    "MeshRpcError": ".grpc.channels",
    "MeshStatus": ".mesh_status",
    "MeshTransport": ".http",
    "current_load_report": ".grpc.servers",
}


def __getattr__(name: str) -> Any:
    module = _LOADED_WHEN_USED.get(name)
    if module is not None:
        return getattr(importlib.import_module(module, __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
