"""requests on the mesh: an adapter for its sessions.

    import meshsdk
    import requests
    from meshsdk_requests import MeshAdapter

    session = requests.Session()
    session.mount("http://", MeshAdapter(meshsdk.Mesh()))
    session.get("http://reviews:9080/reviews/1")

Requests get what those of `mesh.client()` get: routes, retries, timeouts, faults, balancing, mutual TLS, spans and
metrics. Hosts that the mesh does not know are called directly, or by the session's proxies.
"""

from meshsdk.extras import needs_extra

with needs_extra("requests", "requests"):
    from .adapter import MeshAdapter

__all__ = ["MeshAdapter"]
