"""Who asks: what Istio's rules know of a client."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from .labels import has_labels

__all__ = ["ANYBODY", "Client", "client_of"]


class Client(Struct, frozen=True):
    """A workload that calls others; rules of its own namespace, and for its labels, hold for it.

    Attributes:
        labels: Sorted by name.
        locality: Region, zone and sub-zone; empty where they are not known.
    """

    namespace: str = "default"
    labels: tuple[tuple[str, str], ...] = ()
    locality: tuple[str, str, str] = ("", "", "")

    def has(self, labels: Mapping[str, str]) -> bool:
        """Whether it has all of some labels."""
        return has_labels(dict(self.labels), labels)


ANYBODY = Client()


def client_of(namespace: str, metadata: Mapping[str, Any], locality: tuple[str, str, str]) -> Client:
    """The client that a node is.

    Args:
        namespace: Its own.
        metadata: The node's; Istio has the workload's labels in LABELS.
        locality: The node's.
    """
    labels = metadata.get("LABELS")
    named = labels.items() if isinstance(labels, Mapping) else ()
    texts = ((name, value) for name, value in named if isinstance(name, str) and isinstance(value, str))
    return Client(namespace or ANYBODY.namespace, tuple(sorted(texts)), locality)
