"""What names and values must be for Istio's own servers to take them.

Source: istio pkg/config/validation/{validation,agent/validation}.go, pkg/config/labels/instance.go.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from functools import lru_cache

import re2

from ..errors import ConfigError
from ..resources.values import regex_problem
from .fields import Fields

__all__ = [
    "check_address_or_host",
    "check_duration",
    "check_export_to",
    "check_full_host",
    "check_header_changes",
    "check_header_name",
    "check_host",
    "check_labels",
    "check_name",
    "check_ports",
    "check_regex",
    "check_selector",
    "is_address",
    "is_label",
]

_LABEL = r"[a-zA-Z0-9](?:[-a-zA-Z0-9]*[a-zA-Z0-9])?"
_NAME = r"(?:[A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_DNS_LABEL = re2.compile(_LABEL)
_WILDCARD_LABEL = re2.compile(rf"\*|(?:\*|\*-)?{_LABEL}")
_LABEL_KEY = re2.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*/)?{_NAME}")
_LABEL_VALUE = re2.compile(rf"(?:{_NAME})?")
_NUMBER = re2.compile(r"[-+]?[0-9]+")
# RFC 9110 5.6.2, tchar.
_TOKEN = re2.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_CONTROLS = re2.compile(r"[\x00-\x08\x0a-\x1f\x7f]")

_MAX_LABEL = 63
_MAX_HOST = 255
_MAX_PREFIX = 253
_MAX_REGEX = 1024


# A folder has the same few words in thousands of objects.
_remembered = lru_cache(maxsize=1 << 14)


@_remembered
def is_label(text: str) -> bool:
    """Whether it is a label of DNS (RFC 1123), in any case."""
    return len(text) <= _MAX_LABEL and bool(_DNS_LABEL.fullmatch(text))


@_remembered
def is_address(text: str) -> bool:
    """Whether it is an IP address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def check_name(fields: Fields, name: str, text: str) -> None:
    """The name of a port or subset."""
    if not is_label(text):
        raise fields.error(name, f"{text!r} must be a label of DNS: letters, digits and dashes, {_MAX_LABEL} at most")


def check_host(fields: Fields, name: str, host: str) -> None:
    """A host, of which the first label may be or begin with a star."""
    first, _, rest = host.partition(".")
    is_first_good = len(first) <= _MAX_LABEL and bool(_WILDCARD_LABEL.fullmatch(first))
    if not 0 < len(host) <= _MAX_HOST or not is_first_good or ("." in host and not _are_labels(rest)):
        raise fields.error(name, f"{host!r} is no name of a host")


def check_full_host(fields: Fields, name: str, host: str) -> None:
    """A host without a star."""
    if not 0 < len(host) <= _MAX_HOST or not _are_labels(host):
        raise fields.error(name, f"{host!r} is no name of a host")


def check_address_or_host(fields: Fields, name: str, text: str) -> None:
    """An IP address, or a host without a star."""
    if not is_address(text):
        check_full_host(fields, name, text)


def _are_labels(host: str) -> bool:
    parts = host.split(".")
    if _NUMBER.fullmatch(parts[-1]):
        return False
    # istio.io. has an empty label at its end.
    return all(is_label(part) for part in (parts[:-1] if parts[-1] == "" and len(parts) > 1 else parts))


def check_labels(fields: Fields, name: str) -> None:
    """Labels as Kubernetes takes them."""
    for key, value in fields.labels(name).items():
        if not _is_label_of_kubernetes(key, value):
            raise fields.error(name, f"{key!r}: {value!r} is no label")


@_remembered
def _is_label_of_kubernetes(key: str, value: str) -> bool:
    prefix, slash, rest = key.rpartition("/")
    is_key = (
        bool(_LABEL_KEY.fullmatch(key)) and len(prefix) <= _MAX_PREFIX and len(rest if slash else key) <= _MAX_LABEL
    )
    return is_key and bool(_LABEL_VALUE.fullmatch(value))


def check_selector(fields: Fields, name: str) -> None:
    """Labels that workloads are selected by: without stars."""
    for key, value in fields.labels(name).items():
        if not key or "*" in key or "*" in value:
            raise fields.error(name, f"{key!r}: {value!r} is no label: a star has no meaning there")


def check_duration(fields: Fields, *names: str, may_be_zero: bool = False) -> None:
    """Durations of 1ms at least, in whole milliseconds."""
    for name in names:
        seconds = fields.duration(name)
        if seconds is None or (may_be_zero and seconds == 0):
            continue
        millis = seconds * 1000
        if millis < 1 or abs(millis - round(millis)) > 1e-6 * max(millis, 1):
            raise fields.error(name, f"must be 1ms at least, in whole milliseconds, is {fields.raw(name)!r}")


def check_export_to(spec: Fields, namespace: str, *, may_be_nobody: bool = False) -> None:
    """`.`, `*`, or names of namespaces; `~` for a service that nobody sees."""
    seen: set[str] = set()
    values = spec.texts("exportTo")
    for value in values:
        if value not in (".", "*") and not (value == "~" and may_be_nobody) and not is_label(value):
            raise spec.error("exportTo", f"{value!r} must be '.', '*', or the name of a namespace")
        meant = namespace if value == "." else value
        if meant in seen:
            raise spec.error("exportTo", f"{value!r} stands twice")
        seen.add(meant)
    if len(values) > 1 and seen & {"*", "~"}:
        raise spec.error("exportTo", f"{sorted(seen & {'*', '~'})[0]!r} must stand alone")


def check_regex(fields: Fields, name: str, text: str) -> None:
    """A regular expression of RE2's, as Envoy has it."""
    if not text:
        raise fields.error(name, "must not be empty")
    if len(text) > _MAX_REGEX:
        raise fields.error(name, f"must have {_MAX_REGEX} characters at most, has {len(text)}")
    problem = regex_problem(text)
    if problem:
        raise fields.error(name, f"is no regular expression of RE2: {problem}")


def check_header_name(fields: Fields, name: str, header: str) -> None:
    """The name of a header, or a pseudo-header that can be matched."""
    pseudo = (":method", ":scheme", ":authority", ":path", ":status")
    if header not in pseudo and not _TOKEN.fullmatch(header):
        raise fields.error(name, f"{header!r} is no name of a header")


def check_header_changes(holder: Fields) -> list[str]:
    """`headers` of a route or a destination. Returns what the authority is set to."""
    headers = holder.child("headers")
    authorities: list[str] = []
    for direction in ("request", "response"):
        change = headers.child(direction) if headers is not None else None
        if change is None:
            continue
        for operation in ("add", "set"):
            for name, value in change.labels(operation).items():
                if direction == "request" and name.lower() in (":authority", "host"):
                    authorities.append(value)
                else:
                    _check_changed(change, operation, name)
                _check_value(change, operation, name, value)
        for name in change.texts("remove"):
            _check_changed(change, "remove", name)
    return authorities


def _check_changed(change: Fields, operation: str, name: str) -> None:
    if not name or name.startswith(":") or name.lower() == "host":
        raise change.error(operation, f"{name!r} is no header that may be changed there")


def _check_value(change: Fields, operation: str, name: str, value: str) -> None:
    if _CONTROLS.search(value):
        raise change.error(operation, f"the value of {name!r} has control characters")
    # Envoy reads %COMMAND% there, and %% for one.
    rest = value.replace("%%", "")
    if rest.count("%") % 2:
        raise change.error(operation, f"the value of {name!r} has a % that begins nothing; %% is one")


def check_ports(spec: Fields, known: Mapping[str, int] | None = None) -> None:
    """`ports` of a WorkloadEntry, by name.

    Args:
        spec: The entry.
        known: The ports of the service that it is an endpoint of.
    """
    for name, number in spec.integers("ports").items():
        check_name(spec, "ports", name)
        if not 1 <= number <= 65535:
            raise ConfigError(f"{spec.path('ports')}[{name!r}]", f"must be between 1 and 65535, is {number}")
        if known is not None and name not in known:
            raise ConfigError(f"{spec.path('ports')}[{name!r}]", "is no port of the service")
