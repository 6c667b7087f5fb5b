"""xDS messages as bytes, each checked as a client would, so that no error waits for one."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

from google.protobuf.message import Message

from ..errors import ConfigError, ResourceError
from ..resources import RESOURCE_TYPES, ResourceType, decode, name_of
from .memo import Memo

__all__ = ["Packed", "Packer", "Resources"]

Packed = dict[tuple[ResourceType, str], bytes]


@dataclass(frozen=True, slots=True, eq=False)
class Resources:
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

    def keep(self, key: Hashable, inputs: tuple[object, ...], make: Make) -> Resources:
        """The resources of a step (see `Memo.keep`).

        Args:
            key: Of the step.
            inputs: All that it looks at.
            make: See `pack`.
        """
        return self.memo.keep(key, inputs, lambda _: self.pack(make))

    def pack(self, make: Make) -> Resources:
        """The resources that `make` makes."""
        packed: Packed = {}
        errors: list[ConfigError] = []
        for message in make(errors):
            kind = RESOURCE_TYPES[f"type.googleapis.com/{message.DESCRIPTOR.full_name}"]
            name = name_of(kind, message)
            body = message.SerializeToString(deterministic=True)
            if self._checked.get((kind, name)) != body:
                try:
                    decode(kind, body)
                except ResourceError as error:
                    errors.append(ConfigError(f"{name}: {error.field}", error.problem))
                    continue
            packed[(kind, name)] = body
        return Resources(packed, errors)
