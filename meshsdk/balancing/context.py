"""What a pick may depend on beside the endpoints."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ..resources.values import Metadatum

__all__ = ["AnyRequest", "MetadataMatch", "PickContext"]

RandomFraction = Callable[[], float]
MetadataMatch = tuple[tuple[str, Metadatum], ...]


class PickContext(Protocol):
    """A request, as far as a pick depends on it. An `exchange.Exchange` is one.

    Attributes:
        random_fraction: Uniform in [0, 1).
        hash_key: 64 bits; None where the route hashes nothing.
        metadata_match: Values under `envoy.lb` that the endpoint must carry, in order of their keys.
        pick_number: How often a pick for the same attempt was refused (retry_host_predicate); 0 at first.
        header: Looks a request header up by lower-case name.
    """

    random_fraction: RandomFraction
    hash_key: int | None
    metadata_match: MetadataMatch
    pick_number: int

    def header(self, name: str) -> str | None:
        """The value of a request header, or None."""


class AnyRequest:
    """A request with nothing special about it, or with what is given."""

    __slots__ = ("hash_key", "metadata_match", "pick_number", "random_fraction")

    def __init__(
        self, random_fraction: RandomFraction, hash_key: int | None = None, metadata_match: MetadataMatch = ()
    ) -> None:
        self.random_fraction = random_fraction
        self.hash_key = hash_key
        self.metadata_match = metadata_match
        self.pick_number = 0

    def header(self, name: str) -> str | None:
        """It has no headers."""
        return None
