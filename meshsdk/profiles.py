"""istiod's profiles: for whom it makes a process's configuration, by what the node says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .errors import BootstrapError

__all__ = ["GENERATOR", "STATE_OF_THE_WORLD", "VIRTUAL_INBOUND", "is_sidecar", "sidecar_root"]

# Of a node's metadata: by what istiod makes its resources. Of sidecars alone it is empty.
GENERATOR = "GENERATOR"

# The one listener that istiod gives a sidecar for all that comes in.
VIRTUAL_INBOUND = "virtualInbound"

# Of a server's features: it is spoken to in this variant, though sidecars speak incrementally.
STATE_OF_THE_WORLD = "meshsdk.state_of_the_world"


def is_sidecar(node_id: str, metadata: Mapping[str, Any]) -> bool:
    """Whether istiod takes a node for a sidecar: by its type, and since it asks for no generator of its own.

    Source: istio/istio pilot/pkg/model/context.go, ParseServiceNodeWithMetadata; pilot/pkg/xds/ads.go, findGenerator.
    """
    return node_id.startswith("sidecar~") and node_id.count("~") == 3 and not metadata.get(GENERATOR)


def sidecar_root(host: str, port: int, authority: str | None) -> str:
    """What a sidecar's listeners are looked through for (`discovery.outbound`).

    Raises:
        BootstrapError: An authority is named: istiod alone tells sidecars of listeners.
    """
    if authority is not None:
        raise BootstrapError("authorities", "a node of profile sidecar has no listeners of other authorities")
    return f"{host.lower()}:{port}"
