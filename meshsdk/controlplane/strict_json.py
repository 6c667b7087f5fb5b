"""JSON that means one thing, by Python's own reader: ten times as fast as reading it as the YAML that it also is.

What it takes, the YAML reader takes as well, with the same bounds. (msgspec would be faster, but says nothing of a key
that stands twice.)
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from .strict_yaml import INTEGERS, MAX_DEPTH, MAX_VALUES

__all__ = ["parse_json"]


def parse_json(text: str) -> Any:
    """The one value of a text.

    Raises:
        ValueError: It is no JSON, or not of one meaning; whoever reads it as YAML knows where.
    """
    words: dict[str, str] = {}

    def object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            raise ValueError("a key stands twice in one object")
        for key, value in pairs:
            if type(value) is str:
                made[key] = words.setdefault(value, value)
        return made

    try:
        value = json.loads(
            text, object_pairs_hook=object_of, parse_constant=_refuse, parse_int=_integer, parse_float=_number
        )
    except RecursionError as error:
        raise ValueError("is nested too deep") from error
    _check(value, may_have_surrogates="\\ud" in text or "\\uD" in text)
    return value


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON")


def _integer(text: str) -> int:
    value = int(text) if len(text) <= len(str(INTEGERS.start)) else INTEGERS.stop
    if value not in INTEGERS:
        raise ValueError("a number has more than 64 bits")
    return value


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number must be finite")
    return value


def _check(value: Any, *, may_have_surrogates: bool) -> None:
    """What JSON itself does not bound: depth, how many values there are, and halves of characters."""
    level, values, depth = [value], 1, 0
    while level:
        below: list[Any] = []
        depth += any(type(one) is dict or type(one) is list for one in level)
        for one in level:
            if type(one) is dict:
                values += len(one)
                below += one.values()
                if may_have_surrogates:
                    below += one
            elif type(one) is list:
                below += one
            elif may_have_surrogates and type(one) is str:
                one.encode()
        values += len(below)
        if values > MAX_VALUES:
            raise ValueError(f"has more than {MAX_VALUES} values")
        if depth > MAX_DEPTH:
            raise ValueError(f"is nested more than {MAX_DEPTH} deep")
        level = below
