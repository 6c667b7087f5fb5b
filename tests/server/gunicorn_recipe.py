"""gunicorn.conf.py of the recipe: gunicorn terminates mutual TLS, the mesh says how."""

from typing import Any

# Switches TLS on; the certificates are those of ssl_context.
certfile = "/dev/null"


def ssl_context(config: Any, default_factory: Any) -> Any:
    """The mesh's, which rotates while gunicorn runs."""
    from tests.server.recipe_mesh import mesh, port

    return mesh.ssl_context(port=port)
