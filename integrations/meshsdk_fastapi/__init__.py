"""FastAPI, Starlette and any other ASGI application on the mesh.

    app.add_middleware(MeshMiddleware, mesh=mesh, port=8080)

Requests pass the mesh's inbound policy before the application sees them: mutual TLS, authorization, tokens, limits.
`request.state.mesh_peer` is the caller's SPIFFE ID. The request's span, deadline and baggage go on in what the
application sends through `mesh.client()`. Its lifespan waits for the policy, and closes the mesh at the end.
"""

from meshsdk.server.asgi import AsgiMiddleware as MeshMiddleware

__all__ = ["MeshMiddleware"]
