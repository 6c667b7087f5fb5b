"""A mesh of its own for each test: real xDS, real sockets, real mutual TLS, in this process.

Enters: the team's YAML (or xDS resources) and its applications. Leaves: clients of the mesh, and what the control plane
was answered. `plugin` has pytest's fixtures; whoever has another runner uses `ControlPlane` itself:

    from meshsdk.testing import ControlPlane

    with ControlPlane() as control_plane:
        control_plane.service("reviews", app, port=9080)
        with control_plane.mesh("web").client() as client:
            client.get("http://reviews:9080/")

    control_plane   the management server of a test, and the meshes on it
    objects         what a test applies, as files of a folder
    recorded        what clients asked for and answered
    waiting         whether all meshes have what is served
    services        applications as services of the mesh
    workloads       the objects that register them
    signed          identities of the test's own authority
    tokens          an issuer of tokens
    held_port       ports that stay a test's own

Nothing here is imported before a test asks for it. See docs/testing.md.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .control_plane import ControlPlane
    from .recorded import Ack, Nack
    from .services import MeshService
    from .tokens import TokenIssuer

__all__ = ["Ack", "ControlPlane", "MeshService", "Nack", "TokenIssuer"]

_PLACES = {
    "Ack": ".recorded",
    "ControlPlane": ".control_plane",
    "MeshService": ".services",
    "Nack": ".recorded",
    "TokenIssuer": ".tokens",
}


def __getattr__(name: str) -> Any:
    module = _PLACES.get(name)
    if module is not None:
        return getattr(importlib.import_module(module, __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
