"""FastAPI, Starlette and any other ASGI application on the mesh.

    app.add_middleware(MeshMiddleware, mesh=mesh, port=8080)

Requests pass the mesh's inbound policy before the application sees them: mutual TLS, authorization, tokens, limits.
`request.state.mesh_peer` is the caller's SPIFFE ID. Span, deadline and baggage of the request go on in what the application
sends through `mesh.client()`. The application's lifespan waits for the policy, and closes the mesh at its end.
"""

from meshsdk.server.asgi import AsgiMiddleware as MeshMiddleware

__all__ = ["MeshMiddleware"]
