"""xDS messages as bytes, each checked as a client would, so that no error waits for one."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence

from envoy.config.cluster.v3 import cluster_pb2
from google.protobuf.message import Message
from msgspec import Struct

from ..errors import ConfigError, ResourceError
from ..resources import RESOURCE_TYPES, ResourceType, decode, name_of
from .memo import Memo

__all__ = ["Packed", "Packer", "Resources"]

Packed = dict[tuple[ResourceType, str], bytes]


class Resources(Struct, frozen=True, eq=False):
    """What was made in one step.

    Attributes:
        packed: Those that are good.
        errors: What is wrong with others.
    """

    packed: Packed
    errors: Sequence[ConfigError]


# Makes messages, and tells what is wrong with those that it cannot make.
Make = Callable[[list[ConfigError]], Iterable[Message]]


class Packer:
    """Packs what steps make.

    Args:
        memo: Where the steps are kept.
        checked: Bodies that are known to be good, such as those of other clients: to check takes longer than to make.
    """

    def __init__(self, memo: Memo, checked: Packed) -> None:
        self.memo = memo
        self._checked = checked
        self._good: set[bytes | None] = set()

    def keep(self, key: Hashable, inputs: tuple[object, ...], make: Make) -> Resources:
        """The resources of a step (see `Memo.keep`).

        Args:
            key: Of the step.
            inputs: All that it looks at.
            make: See `pack`.
        """
        return self.memo.keep(key, inputs, lambda _: self.pack(make))

    def keep_all(
        self, key: Hashable, inputs: tuple[object, ...], make: Callable[[Packer], list[Resources]]
    ) -> list[Resources]:
        """The resources of all steps inside of one.

        Args:
            key: Of the step.
            inputs: All that the steps inside look at.
            make: Carries them out.
        """

        def make_inside(inside: Memo) -> list[Resources]:
            packer = Packer(inside, self._checked)
            packer._good = self._good
            return make(packer)

        return self.memo.keep(key, inputs, make_inside)

    def pack(self, make: Make) -> Resources:
        """The resources that `make` makes."""
        packed: Packed = {}
        errors: list[ConfigError] = []
        for message in make(errors):
            kind = RESOURCE_TYPES[f"type.googleapis.com/{message.DESCRIPTOR.full_name}"]
            name = name_of(kind, message)
            body = message.SerializeToString(deterministic=True)
            twin = _without_names(message)
            if self._checked.get((kind, name)) != body and twin not in self._good:
                try:
                    decode(kind, body)
                except ResourceError as error:
                    errors.append(ConfigError(f"{name}: {error.field}", error.problem))
                    continue
                if twin is not None:
                    self._good.add(twin)
            packed[(kind, name)] = body
        return Resources(packed, errors)


def _without_names(message: Message) -> bytes | None:
    """What a cluster has in common with those that differ from it in their names alone: one of them is checked.

    None of other resources, of which no two are alike.
    """
    if not isinstance(message, cluster_pb2.Cluster) or not message.HasField("eds_cluster_config"):
        return None
    nameless = cluster_pb2.Cluster()
    nameless.CopyFrom(message)
    nameless.ClearField("name")
    nameless.eds_cluster_config.ClearField("service_name")
    packed: bytes = nameless.SerializeToString(deterministic=True)
    return packed
