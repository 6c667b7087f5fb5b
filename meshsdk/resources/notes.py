"""What a resource asks for and meshsdk does not do.

A field that is valid, that changes behaviour in Envoy, and that is not acted on here must never be dropped in silence.
Parsers say which fields of a message they act on; every other field that is set becomes a note, which `meshsdk check`,
`Mesh.status()` and one log line show.
"""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf.message import Message

__all__ = ["Notes"]


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
        for descriptor, _ in message.ListFields():
            if descriptor.name not in acted_on:
                self.add(f"{where}.{descriptor.name}", "is not acted on")

    def __iter__(self) -> Iterator[str]:
        return iter(self._lines)

    def __len__(self) -> int:
        return len(self._lines)
