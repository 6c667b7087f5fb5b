"""meshsdk puts a Python process on a service mesh, without a sidecar.

    import meshsdk

    mesh = meshsdk.Mesh()                  # finds its configuration in the environment
    with mesh.client() as client:          # an httpx.Client
        client.get("http://reviews:9080/reviews/1")

The names below are the public API; everything else is private by its place in a subpackage.
"""

from .decision import Decision
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
