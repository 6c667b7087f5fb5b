"""YAML as programs write it, kubectl among them: a key and a word to a line, lists and objects by their indentation.

Such a text is read line by line, in half of the time that its events take. Whatever is not plainly of that kind
(flow style, comments beside words, escapes, anchors, folded text, a key that stands twice) is left to the reader of
all of YAML: nothing is read here that is read in another way there.
"""

from __future__ import annotations

from typing import Any

from .strict_yaml import Words, YamlDocument, YamlError, read_yaml, tag_of

__all__ = ["read_written"]

_MAX_LINES = 400_000
# YAML takes keys of 1024 characters without a mark of their own.
_MAX_WORD = 1000
_MAX_DEPTH = 50

_STR, _TIMESTAMP = "tag:yaml.org,2002:str", "tag:yaml.org,2002:timestamp"
_LITERALS = {"|": "\n", "|-": ""}

# What is no value, and stands for a word that was not met before.
_NEW = object()


class _Odd(Exception):
    """The text is not of the kind that is read here."""


def read_written(text: str, first_line: int, words: Words) -> YamlDocument | None:
    """The one document of a text; None of a text that must be read as all of YAML.

    Args:
        text: The text.
        first_line: The number of its first line.
        words: Those of texts that were read before.
    """
    lines = text.split("\n")
    is_plain = text.isascii() and "".join(lines).isprintable() and len(lines) <= _MAX_LINES
    if not is_plain or lines.pop():
        return None
    reader = _Reader(lines, first_line, words)
    try:
        return reader.document()
    except _Odd:
        return None


class _Reader:
    """Lines as data."""

    def __init__(self, lines: list[str], first_line: int, words: Words) -> None:
        self._lines = lines
        self._first_line = first_line
        self._words = words
        self._item_lines: list[int] = []
        # What is open, the innermost last: a list or an object, and the column at which its entries begin.
        self._open: list[tuple[int, Any]] = []
        self._root: Any = None
        # The object and key of which nothing has been said yet.
        self._waiting: tuple[dict[str, Any], str] | None = None

    def document(self) -> YamlDocument:
        """Most lines are entries of the object that the line before belongs to: those are read here and now."""
        lines, known, opened = self._lines, self._words.written, self._open
        start = 0 if lines[:1] == ["---"] else -1
        place = start + 1
        while place < len(lines):
            line = lines[place]
            content = line.lstrip(" ")
            if not content or content[0] == "#":
                place += 1
                continue
            if start < 0:
                start = place
            column = len(line) - len(content)
            while opened and opened[-1][0] > column:
                opened.pop()
            holder = opened[-1][1] if opened and opened[-1][0] == column else None
            if type(holder) is dict:
                name, colon, value = content.partition(": ")
                word = {} if value == "{}" else known.get(value, _NEW)
                if not colon and content[-1] == ":":
                    name, word = content[:-1], None
                key = known.get(name)
                if type(key) is str and word is not _NEW and key not in holder:
                    holder[key], self._waiting = word, None if colon else (holder, key)
                    place += 1
                    continue
            if content.startswith("- "):
                self._go_to_list(column)
                place = self._item(content[2:], column + 2, place)
            else:
                self._go_to_object(column)
                place = self._entry(content, column, place)
        if self._root is None:
            raise _Odd
        return YamlDocument(self._root, start + self._first_line, tuple(self._item_lines))

    def _go_to_list(self, column: int) -> None:
        opened = self._open
        if self._is_awaited():
            self._begin(column, [])
        elif not opened or opened[-1][0] != column or type(opened[-1][1]) is not list:
            raise _Odd

    def _go_to_object(self, column: int) -> None:
        opened = self._open
        if opened and opened[-1][0] == column and type(opened[-1][1]) is list:
            opened.pop()  # It stands in the column of its key.
        if opened and opened[-1][0] == column:
            if type(opened[-1][1]) is not dict:
                raise _Odd
            self._waiting = None
        elif self._is_awaited():
            self._begin(column, {})
        else:
            raise _Odd

    def _is_awaited(self) -> bool:
        """Whether a list or an object may begin: behind a key, or as the document itself."""
        if not self._open:
            return self._root is None
        return self._waiting is not None and self._open[-1][1] is self._waiting[0]

    def _begin(self, column: int, value: Any) -> None:
        """Open what a key waits for, or the document itself."""
        if self._waiting is not None:
            holder, key = self._waiting
            holder[key] = value
            self._waiting = None
        else:
            self._root = value
        self._push(column, value)

    def _push(self, column: int, value: Any) -> None:
        if len(self._open) >= _MAX_DEPTH:
            raise _Odd
        self._open.append((column, value))

    def _item(self, content: str, column: int, place: int) -> int:
        """What stands behind a dash. Returns the place of the line to go on with."""
        items = self._open[-1][1]
        if not content:
            raise _Odd
        is_word = content[0] in "'\"" or (": " not in content and content[-1] != ":")
        if is_word and content not in ("{}", "[]"):
            items.append(self._value(content))
            return place + 1
        self._note_item(items, place)
        if is_word:
            items.append({} if content == "{}" else [])
            return place + 1
        items.append({})
        self._push(column, items[-1])
        return self._entry(content, column, place)

    def _note_item(self, items: list[Any], place: int) -> None:
        root = self._root
        if items is root or (type(root) is dict and root.get("items") is items):
            self._item_lines.append(place + self._first_line)

    def _entry(self, content: str, column: int, place: int) -> int:
        """A key, and what stands behind it. Returns the place of the line to go on with."""
        holder = self._open[-1][1]
        if content[-1] == ":":
            name, value = content[:-1], None
        else:
            name, colon, value = content.partition(": ")
            if not colon:
                raise _Odd
        key = self._value(name)
        if type(key) is not str or key in holder or len(name) > _MAX_WORD:
            raise _Odd
        if value is None:
            holder[key] = None
            self._waiting = holder, key
            return place + 1
        if value in _LITERALS:
            holder[key], place = self._literal(column, place + 1, _LITERALS[value])
            return place
        holder[key] = {} if value == "{}" else [] if value == "[]" else self._value(value)
        return place + 1

    def _literal(self, column: int, place: int, end: str) -> tuple[str, int]:
        """The lines below `|`, and the place of the line after them."""
        lines, start = self._lines, place
        first = lines[place] if place < len(lines) else ""
        indent = len(first) - len(first.lstrip(" "))
        if not first.strip(" ") or indent <= column:
            raise _Odd
        found = []
        while place < len(lines):
            line = lines[place]
            content = line.lstrip(" ")
            own = len(line) - len(content)
            if content and own < indent:
                break
            found.append(line[indent:])
            place += 1
        if place < len(lines) and len(lines[place]) - len(lines[place].lstrip(" ")) > column:
            raise _Odd
        while not found[-1]:
            found.pop()
        if not found[-1].strip(" ") or place == start:
            raise _Odd
        return "\n".join(found) + end, place

    def _value(self, text: str) -> Any:
        """A word as it stands in a line, with its quotes."""
        known = self._words.written.get(text, _NEW)
        if known is _NEW:
            known = self._meaning(text)
            if len(text) <= _MAX_WORD:
                self._words.written[text] = known
        return known

    def _meaning(self, text: str) -> Any:
        if not text:
            raise _Odd
        quote = text[0]
        if quote in "'\"":
            inner = text[1:-1]
            if len(text) < 2 or text[-1] != quote or quote in inner or (quote == '"' and "\\" in inner):
                raise _Odd
            return inner
        is_word = quote.isalnum() or quote in "_./"
        tokens = text.split(" ")
        if not is_word or not tokens[-1] or text.startswith("...") or any(map(_is_odd, tokens)):
            raise _Odd
        if tag_of(text) in (_STR, _TIMESTAMP):
            return text
        try:
            return read_yaml(text)[0][0].data
        except YamlError:
            raise _Odd from None


def _is_odd(token: str) -> bool:
    """Whether a part of a line is a key, or begins a comment."""
    return token[-1:] == ":" or token[:1] == "#"
