"""What a resource asks for and meshsdk does not do.

A field that is valid, that changes behaviour in Envoy, and that is not acted on here must never be dropped in silence.
Parsers say which fields of a message they act on; every other field that is set becomes a note, which `meshsdk check`,
`Mesh.status()` and one log line show.
"""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf.message import Message

__all__ = ["Notes", "acts_on_all"]

# To ask for one field costs a tenth of what it costs to be told all that are set.
_FEW = 6


class Notes:
    """The notes of one resource, in the order in which parsing found them."""

    __slots__ = ("_lines",)

    def __init__(self) -> None:
        self._lines: dict[str, None] = {}

    def add(self, where: str, text: str) -> None:
        """Note `text` about the field at `where`."""
        self._lines[f"{where}: {text}"] = None

    def unless_acted_on(self, message: Message, where: str, acted_on: frozenset[str]) -> None:
        """Note every field set in `message` that is not in `acted_on`.

        Args:
            message: The message being parsed.
            where: Its path.
            acted_on: Names of its fields that are acted on, or that have no effect on a client by their nature.
        """
        if acts_on_all(message, acted_on):
            return
        for descriptor, _ in message.ListFields():
            if descriptor.name not in acted_on:
                self.add(f"{where}.{descriptor.name}", "is not acted on")

    def __iter__(self) -> Iterator[str]:
        return iter(self._lines)

    def __len__(self) -> int:
        return len(self._lines)


def acts_on_all(message: Message, acted_on: frozenset[str]) -> bool:
    """Whether it takes a few questions to know that no other field is set; where False, some may be."""
    others = _others.get((message.DESCRIPTOR, acted_on))
    if others is None:
        others = _others[message.DESCRIPTOR, acted_on] = [
            (field.name, field.has_presence) for field in message.DESCRIPTOR.fields if field.name not in acted_on
        ]
    if len(others) > _FEW:
        return False
    for name, has_presence in others:
        if message.HasField(name) if has_presence else getattr(message, name):
            return False
    return True


# By message type and what is acted on of it: the other fields, and whether they say that they are set.
_others: dict[tuple[object, frozenset[str]], list[tuple[str, bool]]] = {}
