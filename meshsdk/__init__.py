"""meshsdk puts a Python process on a service mesh, without a sidecar.

    import meshsdk

    mesh = meshsdk.Mesh()                  # finds its configuration in the environment
    with mesh.client() as client:          # an httpx.Client
        client.get("http://reviews:9080/reviews/1")

The names below are the public API; everything else is private by its place in a subpackage.
"""

from typing import TYPE_CHECKING, Any

from .errors import (
    BootstrapError,
    CircuitOpenError,
    ConfigError,
    MeshError,
    NoHealthyEndpointError,
    NoRouteError,
    PeerIdentityError,
    RequestError,
    RequestTimeoutError,
    ResourceError,
    UnsupportedFeatureError,
)
from .http import AsyncMeshTransport, MeshResponseInfo, MeshTransport
from .mesh import Mesh

if TYPE_CHECKING:
    from .decision import Decision

__version__ = "0.1.0"

__all__ = [
    "AsyncMeshTransport",
    "BootstrapError",
    "CircuitOpenError",
    "ConfigError",
    "Decision",
    "Mesh",
    "MeshError",
    "MeshResponseInfo",
    "MeshTransport",
    "NoHealthyEndpointError",
    "NoRouteError",
    "PeerIdentityError",
    "RequestError",
    "RequestTimeoutError",
    "ResourceError",
    "UnsupportedFeatureError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name == "Decision":  # Loaded when it is used, as `Mesh.explain` loads it.
        from .decision import Decision

        return Decision
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
