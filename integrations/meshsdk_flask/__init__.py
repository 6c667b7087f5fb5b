"""Flask, and any other WSGI application, on the mesh.

    MeshFlask(app, mesh=mesh, port=8080)        # or MeshFlask(mesh=mesh, port=8080).init_app(app)
    application = MeshWsgi(application, mesh=mesh, port=8080)

Requests pass the mesh's inbound policy before the application sees them. `flask.g.mesh_peer` is the caller's SPIFFE ID.
The inbound span, deadline and baggage go on in what the application sends through `mesh.client()`.
"""

from __future__ import annotations

from typing import Any

from meshsdk import Mesh
from meshsdk.extras import needs_extra
from meshsdk.server.wsgi import WsgiMiddleware as MeshWsgi

with needs_extra("flask", "flask"):
    import flask

__all__ = ["MeshFlask", "MeshWsgi"]


class MeshFlask:
    """The Flask extension.

    Args:
        app: The application; None leaves it to `init_app`.
        mesh: Whose policy.
        port: That the server listens on, as configuration knows it; by default what each connection came to.
        address: That it listens on.
    """

    def __init__(
        self, app: flask.Flask | None = None, *, mesh: Mesh, port: int | None = None, address: str = "0.0.0.0"
    ) -> None:
        self._mesh = mesh
        self._port = port
        self._address = address
        if app is not None:
            self.init_app(app)

    def init_app(self, app: flask.Flask) -> None:
        """Put an application behind the policy.

        Args:
            app: The application, before its first request.
        """
        application: Any = app.wsgi_app
        app.wsgi_app = MeshWsgi(  # type: ignore[method-assign]
            application, mesh=self._mesh, port=self._port, address=self._address
        )
        app.before_request(_remember_peer)
        app.extensions["meshsdk"] = self


def _remember_peer() -> None:
    environ = flask.request.environ
    scope = environ.get("asgi.scope") or {}
    flask.g.mesh_peer = environ.get("meshsdk.peer") or scope.get("state", {}).get("mesh_peer", "")
