"""Reading an object's fields: typed, with the path in every error, and with a note of what nobody read.

A field that is never read would be dropped in silence; `finish` warns about each by name instead. Where a field that is
dropped would change who gets in, or what a rule matches, `finish_exactly` refuses it.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import re2

from ..errors import ConfigError
from .kinds import did_you_mean

__all__ = ["Fields"]

_DURATION = re2.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?")

# Envoy's own bound where it has one (HttpUri.timeout): 136 years.
_MAX_SECONDS = 1 << 32

# Kubernetes: namespaces are DNS labels (RFC 1123).
_NAMESPACE = re2.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


class Fields:
    """One object of a document.

    Args:
        where: Its path, for messages.
        data: The object.
        warnings: Where notes of unread fields go.
    """

    def __init__(self, where: str, data: Any, warnings: list[str]) -> None:
        if not isinstance(data, dict):
            raise ConfigError(where, f"must be an object, is {_kind(data)}")
        for key in data:
            if not isinstance(key, str):
                word = "yes, on or true" if key else "no, off or false"
                raise ConfigError(where, f"has a key that is {word}, which is no string; quote it")
        self.where = where
        self._data = data
        self._warnings = warnings
        self._read: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return self._data.get(name) is not None

    def again(self) -> Fields:
        """The same object for one who only checks it: nothing counts as read, and nothing is noted."""
        return Fields(self.where, self._data, [])

    def path(self, name: str) -> str:
        """The path of a field."""
        return f"{self.where}.{name}"

    def error(self, name: str, problem: str) -> ConfigError:
        """An error at a field."""
        return ConfigError(self.path(name), problem)

    def warn(self, name: str, text: str) -> None:
        """A note at a field."""
        self._warnings.append(f"{self.path(name)}: {text}")

    def note(self, text: str) -> None:
        """A note at the object itself."""
        self._warnings.append(f"{self.where}: {text}")

    def nested(self, name: str, value: Any) -> Fields:
        """An object that stands in a field as text. The caller finishes it."""
        return Fields(self.path(name), value, self._warnings)

    def raw(self, name: str) -> Any:
        """The value as it stands; None where there is none."""
        self._read.add(name)
        return self._data.get(name)

    def text(self, name: str, default: str = "") -> str:
        """A string; numbers and booleans, which YAML makes of unquoted words, are errors."""
        value = self.raw(name)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self.error(name, f"must be a string, is {_kind(value)}; quote it")
        return value

    def base64(self, name: str) -> bytes:
        """Bytes, as JSON writes them (protobuf's JSON mapping: base64, of either alphabet, with or without padding)."""
        text = self.text(name).replace("-", "+").replace("_", "/").rstrip("=")
        try:
            return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
        except ValueError:
            raise self.error(name, "must be base64") from None

    def required_text(self, name: str) -> str:
        """A string that must be there."""
        value = self.text(name)
        if not value:
            raise self.error(name, "must be set")
        return value

    def integer(self, name: str, default: int | None = None, *, low: int = 0, high: int = 0xFFFFFFFF) -> int | None:
        """A whole number between `low` and `high`."""
        value = self.raw(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.error(name, f"must be a whole number, is {_kind(value)}")
        if not low <= value <= high:
            raise self.error(name, f"must be between {low} and {high}, is {value}")
        return value

    def required_port(self, name: str) -> int:
        """A port that must be there."""
        value = self.integer(name, low=1, high=65535)
        if value is None:
            raise self.error(name, "must be set")
        return value

    def number(self, name: str, default: float = 0.0) -> float:
        """A number."""
        value = self.raw(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(name, f"must be a number, is {_kind(value)}")
        return float(value)

    def boolean(self, name: str, default: bool = False) -> bool:
        """A boolean."""
        value = self.raw(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(name, f"must be true or false, is {_kind(value)}")
        return value

    def duration(self, name: str) -> float | None:
        """A duration such as `1.5s`, `200ms` or `1h2m`, in seconds; None where there is none."""
        value = self.raw(name)
        if value is None:
            return None
        if isinstance(value, str) and value:
            match = _DURATION.fullmatch(value)
            if match is not None:
                hours, minutes, seconds, millis = (float(group or 0) for group in match.groups())
                total = hours * 3600 + minutes * 60 + seconds + millis / 1000
                if total >= _MAX_SECONDS:
                    raise self.error(name, f"must be below {_MAX_SECONDS} seconds, is longer")
                return total
        raise self.error(name, f"must be a duration such as 1.5s or 200ms, is {value!r}")

    def choice(self, name: str, choices: Sequence[str], default: str = "") -> str:
        """One of some words, or what holds where there is none."""
        value = self.text(name, default)
        if value != default and value not in choices:
            raise self.error(name, f"must be one of {', '.join(choices)}, is {value!r}{did_you_mean(value, choices)}")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of strings."""
        return tuple(self._list_of(name, str, "a string"))

    def words(self, name: str) -> tuple[str, ...]:
        """A list of strings of which none is empty."""
        values = self.texts(name)
        if "" in values:
            raise ConfigError(f"{self.path(name)}[{values.index('')}]", "must not be empty")
        return values

    def labels(self, name: str) -> dict[str, str]:
        """A map of strings."""
        value = self.raw(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self.error(name, f"must be a map, is {_kind(value)}")
        for key, entry in value.items():
            if not isinstance(key, str) or not isinstance(entry, str):
                raise ConfigError(f"{self.path(name)}[{key!r}]", "must be a string; quote it")
        return dict(value)

    def integers(self, name: str) -> dict[str, int]:
        """A map of whole numbers by name."""
        value = self.raw(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self.error(name, f"must be a map, is {_kind(value)}")
        for key, entry in value.items():
            if not isinstance(key, str) or isinstance(entry, bool) or not isinstance(entry, int):
                raise ConfigError(f"{self.path(name)}[{key!r}]", "must be a whole number")
        return dict(value)

    def namespace(self, name: str, default: str) -> str:
        """The name of a namespace; empty or without a value it is an error."""
        self.refuse_empty(name)
        value = self.text(name, default)
        if not _is_namespace(value):
            raise self.error(name, f"{value!r} is no name of a namespace; leave it out for {default!r}")
        return value

    def child(self, name: str) -> Fields | None:
        """A nested object; None where there is none. The caller finishes it."""
        value = self.raw(name)
        return None if value is None else Fields(self.path(name), value, self._warnings)

    def children(self, name: str) -> Iterator[Fields]:
        """A list of nested objects. The caller finishes each."""
        for index, item in enumerate(self._list_of(name, dict, "an object")):
            yield Fields(f"{self.path(name)}[{index}]", item, self._warnings)

    def child_map(self, name: str) -> dict[str, Fields]:
        """A map of nested objects."""
        value = self.raw(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self.error(name, f"must be a map, is {_kind(value)}")
        keys = Fields(self.path(name), value, self._warnings)
        return {key: Fields(f"{keys.where}[{key!r}]", entry, self._warnings) for key, entry in value.items()}

    @property
    def unread(self) -> list[str]:
        """Names of fields that are there and were not read."""
        return [str(name) for name in self._data if name not in self._read and self._data[name] is not None]

    def ignore(self, *names: str) -> None:
        """These fields have no meaning here, and may be there."""
        self._read.update(names)

    def finish(self, conditions: Iterable[str] = ()) -> None:
        """Warn about every field that was not read.

        Args:
            conditions: Fields without which the object would match more. What is nearly one of them is refused.
        """
        self.refuse_near(conditions)
        for name in self.unread:
            meant = did_you_mean(name, self._read, 0.75)
            self.warn(
                name, f"is not known{meant}; it has no effect" if meant else "is not translated, and has no effect"
            )

    def refuse_near(self, known: Iterable[str]) -> None:
        """Refuse fields that were not read and are nearly one of those."""
        for name in self.unread:
            if meant := did_you_mean(name, known, 0.75):
                raise self.error(name, f"is not known{meant}")

    def refuse_empty(self, *names: str) -> None:
        """Refuse fields that are there and have no value."""
        for name in names:
            if name in self._data and self._data[name] is None:
                raise self.error(name, "has no value; leave it out, or say what it is")

    def finish_exactly(self) -> None:
        """Refuse every field that was not read, and every field without a value."""
        for name in self._data:
            if name not in self._read:
                raise self.error(name, f"is not known{did_you_mean(name, self._read)}")
            self.refuse_empty(name)

    def _list_of(self, name: str, kind: type, words: str) -> list[Any]:
        value = self.raw(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.error(name, f"must be a list, is {_kind(value)}")
        for index, item in enumerate(value):
            if not isinstance(item, kind):
                raise ConfigError(f"{self.path(name)}[{index}]", f"must be {words}, is {_kind(item)}")
        return value


@lru_cache(maxsize=1024)
def _is_namespace(text: str) -> bool:
    return bool(_NAMESPACE.fullmatch(text))


def _kind(value: Any) -> str:
    return "nothing" if value is None else type(value).__name__
