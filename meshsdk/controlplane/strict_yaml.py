"""YAML that means one thing: plain data, bounded, with no key twice.

PyYAML composes the nodes; the data are made of them here, since its constructor takes the last of two equal keys and
makes dates and numbers to the base of 60 of words that Kubernetes reads as strings.
"""

from __future__ import annotations

import math
from typing import Any

import yaml

__all__ = ["YamlError", "parse_yaml"]

# Aliases make a small file mean a huge document ("billion laughs"); manifests do without, or use a few.
_MAX_ALIASES = 100
_MAX_VALUES = 2_000_000
_MAX_DEPTH = 100
# Those of JSON that Kubernetes takes.
_INTEGERS = range(-(1 << 63), 1 << 64)

# libyaml's parser where it was built in.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

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


def parse_yaml(text: str) -> list[Any]:
    """The documents of a text.

    Raises:
        YamlError: The first of them that is wrong.
    """
    _check_size(text)
    found: list[Any] = []
    try:
        for node in yaml.compose_all(text, Loader=_Loader):
            found.append(_Builder().build(node))
    except (yaml.YAMLError, ValueError) as error:
        raise YamlError(len(found) + 1, _on_one_line(error)) from error
    return found


def _check_size(text: str) -> None:
    """Before nodes are composed, which is done by recursion."""
    documents = aliases = depth = 0
    try:
        for event in yaml.parse(text, Loader=_Loader):
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
            elif isinstance(event, yaml.AliasEvent):
                aliases += 1
            elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
                depth += 1
            elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
                depth -= 1
            if depth > _MAX_DEPTH:
                raise _wrong(event, f"is nested more than {_MAX_DEPTH} deep")
            if aliases > _MAX_ALIASES:
                raise _wrong(event, f"has more than {_MAX_ALIASES} aliases")
    except (yaml.YAMLError, ValueError) as error:
        raise YamlError(max(documents, 1), _on_one_line(error)) from error


def _on_one_line(error: Exception) -> str:
    return " ".join(str(error).replace('in "<unicode string>", ', "").split())


def _wrong(at: Any, problem: str) -> ValueError:
    return ValueError(f"line {at.start_mark.line + 1}: {problem}")


class _Builder:
    """One document's nodes as data. What several aliases stand for is made once."""

    def __init__(self) -> None:
        self._made: dict[int, tuple[Any, int, int]] = {}
        self._open: set[int] = set()

    def build(self, node: Any) -> Any:
        return self._build(node)[0]

    def _build(self, node: Any) -> tuple[Any, int, int]:
        """The value; and how many values it holds, and how deep, with every alias written out."""
        known = self._made.get(id(node))
        if known is not None:
            return known
        if id(node) in self._open:
            raise _wrong(node, "an alias stands inside of what it stands for")
        self._open.add(id(node))
        made: tuple[Any, int, int]
        if isinstance(node, yaml.MappingNode):
            made = self._mapping(node)
        elif isinstance(node, yaml.SequenceNode):
            if node.tag != f"{_TAG}seq":
                raise _wrong(node, f"the tag {node.tag!r} is not taken")
            items = [self._build(item) for item in node.value]
            sizes, depths = (sum(one[1] for one in items), max((one[2] for one in items), default=0))
            made = [one[0] for one in items], 1 + sizes, 1 + depths
        else:
            made = _scalar(node), 1, 0
        if made[1] > _MAX_VALUES:
            raise _wrong(node, f"stands for more than {_MAX_VALUES} values")
        if made[2] > _MAX_DEPTH:
            raise _wrong(node, f"is nested more than {_MAX_DEPTH} deep")
        self._open.discard(id(node))
        self._made[id(node)] = made
        return made

    def _mapping(self, node: Any) -> tuple[dict[Any, Any], int, int]:
        if node.tag != f"{_TAG}map":
            raise _wrong(node, f"the tag {node.tag!r} is not taken")
        own: dict[Any, Any] = {}
        merged: dict[Any, Any] | None = None
        size, depth = 1, 0
        for key_node, value_node in node.value:
            value, count, below = self._build(value_node)
            size, depth = size + 1 + count, max(depth, below)
            if key_node.tag == f"{_TAG}merge":
                if merged is not None:
                    raise _wrong(key_node, "'<<' stands twice in one object")
                merged = _merged(key_node, value)
                continue
            key = _key(key_node)
            if key in own:
                raise _wrong(key_node, f"the key {key!r} stands twice in one object")
            own[key] = value
        return {**(merged or {}), **own}, size, 1 + depth


def _merged(at: Any, value: Any) -> dict[Any, Any]:
    """`<<`: an object, or several of which the first wins."""
    result: dict[Any, Any] = {}
    for one in reversed(value if isinstance(value, list) else [value]):
        if not isinstance(one, dict):
            raise _wrong(at, "'<<' must be an object or a list of objects")
        result.update(one)
    return result


def _key(node: Any) -> Any:
    """A key. Numbers are words, as in Kubernetes; `yes` stays what it is, for those who read it."""
    if not isinstance(node, yaml.ScalarNode):
        raise _wrong(node, "a key must be a word")
    value = _scalar(node)
    if value is None:
        raise _wrong(node, "a key must be a word, is nothing")
    return value if isinstance(value, bool | str) else node.value


def _scalar(node: Any) -> Any:
    text: str = node.value
    match node.tag.removeprefix(_TAG):
        case "str" | "timestamp" | "value" | "merge":
            return text
        case "null":
            return None
        case "bool":
            return _BOOLEANS[text.lower()] if text.lower() in _BOOLEANS else _no_value(node)
        case "int":
            # To the base of 60 in YAML 1.1 (12:30): nobody means that.
            return text if ":" in text else _integer(node, text.replace("_", ""))
        case "float":
            return text if ":" in text else _number(node, text.replace("_", "").lower())
    raise _wrong(node, f"the tag {node.tag!r} is not taken")


def _no_value(node: Any) -> Any:
    raise _wrong(node, f"{node.value!r} is no value of the tag {node.tag!r}")


def _integer(node: Any, text: str) -> int:
    digits = text.lstrip("+-")
    is_octal = len(digits) > 1 and digits.isdecimal() and digits.startswith("0")
    value = int(text, 8 if is_octal else 0)
    if value not in _INTEGERS:
        raise _wrong(node, "a number has more than 64 bits")
    return value


def _number(node: Any, text: str) -> float:
    value = float(text.replace(".inf", "inf").replace(".nan", "nan"))
    if not math.isfinite(value):
        raise _wrong(node, "a number must be finite")
    return value
