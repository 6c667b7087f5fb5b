"""YAML that means one thing: plain data, bounded, with no key twice.

PyYAML (libyaml) reads a text as events, and the data are made of them here: its constructor takes the last of two equal
keys and makes dates and numbers to the base of 60 of words that Kubernetes reads as strings, and its composer takes ten
times as long.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import yaml
from msgspec import Struct, field

__all__ = ["Words", "YamlDocument", "YamlError", "parse_yaml", "read_yaml"]

# Aliases make a small file mean a huge document ("billion laughs"); manifests do without, or use a few.
MAX_ALIASES = 100
MAX_VALUES = 2_000_000
MAX_DEPTH = 100
# Those of JSON that Kubernetes takes.
INTEGERS = range(-(1 << 63), 1 << 64)

# libyaml's parser where it was built in.
_Parser = getattr(getattr(yaml, "cyaml", None), "CParser", yaml.SafeLoader)

_TAG = "tag:yaml.org,2002:"
_BOOLEANS = {"yes": True, "true": True, "on": True, "no": False, "false": False, "off": False}


class YamlError(Exception):
    """A text is no YAML, or not of the kind that is taken.

    Args:
        document: Number of the document, from 1.
        problem: What is wrong.
    """

    def __init__(self, document: int, problem: str) -> None:
        super().__init__(problem)
        self.document = document
        self.problem = problem


class YamlDocument(Struct, frozen=True):
    """One document.

    Attributes:
        line: Where it begins, from 1.
        item_lines: Where the objects of its list begin, if it is one or has one under `items`.
    """

    data: Any
    line: int = 1
    item_lines: tuple[int, ...] = ()


def parse_yaml(text: str) -> list[Any]:
    """The documents of a text, as data.

    Raises:
        YamlError: The first of them that is wrong.
    """
    return [document.data for document in read_yaml(text)[0]]


class Words(Struct, frozen=True):
    """What plain words mean, and quoted ones, of texts that are read together: most come many times."""

    plain: dict[str, Any] = field(default_factory=dict)
    quoted: dict[str, str] = field(default_factory=dict)


def read_yaml(text: str, first_line: int = 1, words: Words | None = None) -> tuple[list[YamlDocument], int]:
    """The documents of a text, and how many aliases they have.

    Args:
        text: The text.
        first_line: The number of its first line.
        words: Those of texts that were read before.

    Raises:
        YamlError: The first of them that is wrong.
    """
    found: list[YamlDocument] = []
    builder = _Builder(first_line, words or Words())
    try:
        parser = _Parser(text)
        for document in builder.documents(iter(parser.get_event, None)):
            found.append(document)
    except yaml.MarkedYAMLError as error:
        raise YamlError(len(found) + 1, _told(error, first_line)) from error
    except (yaml.YAMLError, ValueError) as error:
        raise YamlError(len(found) + 1, " ".join(str(error).split())) from error
    return found, builder.aliases


def _told(error: yaml.MarkedYAMLError, first_line: int) -> str:
    parts = []
    for words, mark in ((error.context, error.context_mark), (error.problem, error.problem_mark)):
        if words:
            parts.append(f"{words} (line {mark.line + first_line})" if mark is not None else words)
    return " ".join(", ".join(parts).split())


class _Open:
    """A list or an object that has begun.

    Attributes:
        key: Of an object that is inside of another: where it stands there.
        below: How deep what it holds is.
        values_before: How many values the document had before it.
        merged: What `<<` brings; None where it does not stand here.
    """

    __slots__ = ("anchor", "below", "key", "merged", "value", "values_before")

    def __init__(self, value: Any, key: Any, anchor: str | None, values_before: int) -> None:
        self.value = value
        self.key = key
        self.anchor = anchor
        self.values_before = values_before
        self.below = 0
        self.merged: dict[Any, Any] | None = None


class _Word:
    """What stands for a key where there is none of its own."""


# In an object: a key comes next. In a list, or at the top. After `<<`. Not met before.
_NO_KEY, _NONE_NEEDED, _MERGE, _NEW = _Word(), _Word(), _Word(), _Word()


class _Builder:
    """Events as data. What several aliases stand for is made once; words that come again are one string."""

    def __init__(self, first_line: int, words: Words) -> None:
        self.aliases = 0
        self._first_line = first_line
        self._words = words
        self._start()

    def _start(self) -> None:
        self._values = 0
        # By anchor: the value, how many values it holds, and how deep it is; None while it is open.
        self._anchors: dict[str, tuple[Any, int, int] | None] = {}
        self._open: list[_Open] = []
        self._root: Any = None
        self._item_lines: list[int] = []

    def documents(self, events: Iterable[Any]) -> Iterator[YamlDocument]:
        """The documents of a stream of events.

        Two of three events are words, and most of those have been met before: what is done for them stands here, the
        rest in methods. `holder` is the list or object that is open, `key` where the next value goes in it.
        """
        plain, quoted = self._words.plain, self._words.quoted
        word, object_, list_ = yaml.ScalarEvent, yaml.MappingStartEvent, yaml.SequenceStartEvent
        holder: Any = None
        key: Any = _NONE_NEEDED
        line = self._first_line
        for event in events:
            kind = type(event)
            if kind is word:
                self._values += 1
                text = event.value
                if event.tag is not None or event.anchor is not None:
                    value = self._named_word(event)
                elif event.implicit[0]:
                    value = plain.get(text, _NEW)
                    if value is _NEW:
                        plain[text] = value = self._made(event, text, _tag_of(text))
                else:
                    value = quoted.setdefault(text, text)
                if key is _NO_KEY:
                    is_usual = type(value) is str and text != "<<" and value not in holder
                    key = value if is_usual else self._odd_key(event, value, holder)
                    continue
            elif kind is object_ or kind is list_:
                holder, key = self._begin(event, key, {} if kind is object_ else [])
                continue
            elif kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
                value, key = self._end()
                holder = self._open[-1].value if self._open else None
            elif kind is yaml.AliasEvent:
                value = self._alias(event, key)
            else:
                if kind is yaml.DocumentStartEvent:
                    self._start()
                    line = event.start_mark.line + self._first_line
                elif kind is yaml.DocumentEndEvent:
                    yield YamlDocument(self._root, line, tuple(self._item_lines))
                continue
            if key is _NONE_NEEDED:
                if holder is None:
                    self._root = value
                else:
                    holder.append(value)
            elif key is _MERGE:
                self._open[-1].merged, key = self._merged(event, value), _NO_KEY
            else:
                holder[key] = value
                key = _NO_KEY

    def _begin(self, event: Any, key: Any, value: Any) -> tuple[Any, Any]:
        is_object = type(value) is dict
        if event.tag is not None and event.tag not in ("!", f"{_TAG}map" if is_object else f"{_TAG}seq"):
            raise self._wrong(event, f"the tag {event.tag!r} is not taken")
        if key is _NO_KEY:
            raise self._wrong(event, "a key must be a word")
        depth = len(self._open)
        if depth >= MAX_DEPTH:
            raise self._wrong(event, f"is nested more than {MAX_DEPTH} deep")
        if event.anchor is not None:
            self._name(event, None)
        if key is _NONE_NEEDED and (depth == 1 or (depth == 2 and self._open[1].key == "items")):
            self._item_lines.append(event.start_mark.line + self._first_line)
        self._open.append(_Open(value, key, event.anchor, self._values))
        self._count(event, 1)
        return value, _NO_KEY if is_object else _NONE_NEEDED

    def _end(self) -> tuple[Any, Any]:
        done = self._open.pop()
        value = done.value if done.merged is None else {**done.merged, **done.value}
        depth = done.below + 1
        if done.anchor is not None:
            self._anchors[done.anchor] = (value, self._values - done.values_before, depth)
        if self._open and depth > self._open[-1].below:
            self._open[-1].below = depth
        return value, done.key

    def _alias(self, event: Any, key: Any) -> Any:
        self.aliases += 1
        if self.aliases > MAX_ALIASES:
            raise self._wrong(event, f"has more than {MAX_ALIASES} aliases")
        if event.anchor not in self._anchors:
            raise self._wrong(event, f"the alias {event.anchor!r} stands for nothing")
        known = self._anchors[event.anchor]
        if known is None:
            raise self._wrong(event, "an alias stands inside of what it stands for")
        if key is _NO_KEY:
            raise self._wrong(event, "a key must be a word, is an alias")
        value, size, depth = known
        self._count(event, size)
        if len(self._open) + depth > MAX_DEPTH:
            raise self._wrong(event, f"is nested more than {MAX_DEPTH} deep")
        self._open[-1].below = max(self._open[-1].below, depth)
        return value

    def _named_word(self, event: Any) -> Any:
        """A word with an anchor or a tag."""
        tag = event.tag
        if tag == f"{_TAG}merge":
            raise self._wrong(event, f"the tag {tag!r} is not taken")
        if tag is None or tag == "!":
            tag = _tag_of(event.value) if event.implicit[0] else f"{_TAG}str"
        value = self._made(event, event.value, tag)
        if event.anchor is not None:
            self._name(event, (value, 1, 0))
        return value

    def _odd_key(self, event: Any, value: Any, holder: dict[Any, Any]) -> Any:
        """A key. Numbers are words, as in Kubernetes; `yes` stays what it is, for those who read it."""
        if value is None:
            raise self._wrong(event, "a key must be a word, is nothing")
        if value == "<<" and event.tag is None and event.implicit[0]:
            if self._open[-1].merged is not None:
                raise self._wrong(event, "'<<' stands twice in one object")
            return _MERGE
        key = value if isinstance(value, str | bool) else event.value
        if key in holder:
            raise self._wrong(event, f"the key {key!r} stands twice in one object")
        return key

    def _made(self, event: Any, text: str, tag: str) -> Any:
        """A word as its tag says."""
        match tag.removeprefix(_TAG):
            case "str" | "timestamp" | "value" | "merge":
                return text
            case "null":
                return None
            case "bool" if text.lower() in _BOOLEANS:
                return _BOOLEANS[text.lower()]
            case "bool":
                raise self._wrong(event, f"{text!r} is no value of the tag {tag!r}")
            case "int":
                # To the base of 60 in YAML 1.1 (12:30): nobody means that.
                return text if ":" in text else self._integer(event, text.replace("_", ""))
            case "float":
                return text if ":" in text else self._number(event, text.replace("_", "").lower())
        raise self._wrong(event, f"the tag {tag!r} is not taken")

    def _integer(self, event: Any, text: str) -> int:
        digits = text.lstrip("+-")
        is_octal = len(digits) > 1 and digits.isdecimal() and digits.startswith("0")
        value = int(text, 8 if is_octal else 0)
        if value not in INTEGERS:
            raise self._wrong(event, "a number has more than 64 bits")
        return value

    def _number(self, event: Any, text: str) -> float:
        value = float(text.replace(".inf", "inf").replace(".nan", "nan"))
        if not math.isfinite(value):
            raise self._wrong(event, "a number must be finite")
        return value

    def _merged(self, event: Any, value: Any) -> dict[Any, Any]:
        """`<<`: an object, or several of which the first wins."""
        result: dict[Any, Any] = {}
        for one in reversed(value if isinstance(value, list) else [value]):
            if not isinstance(one, dict):
                raise self._wrong(event, "'<<' must be an object or a list of objects")
            result.update(one)
        return result

    def _name(self, event: Any, named: tuple[Any, int, int] | None) -> None:
        if event.anchor in self._anchors:
            raise self._wrong(event, f"the anchor {event.anchor!r} stands twice")
        self._anchors[event.anchor] = named

    def _count(self, event: Any, values: int) -> None:
        self._values += values
        if self._values > MAX_VALUES:
            raise self._wrong(event, f"with its aliases the document has more than {MAX_VALUES} values")

    def _wrong(self, event: Any, problem: str) -> ValueError:
        return ValueError(f"line {event.start_mark.line + self._first_line}: {problem}")


_resolver = yaml.resolver.Resolver()


def _tag_of(text: str) -> str:
    """What YAML makes of a plain word."""
    return str(_resolver.resolve(yaml.ScalarNode, text, (True, False)))  # type: ignore[no-untyped-call]
