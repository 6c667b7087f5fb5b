"""What the documents of a folder name, by which differences that are meant are told from others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

__all__ = ["Named", "full_names", "names_in"]

Json = Mapping[str, Any]

_SUFFIX = "svc.cluster.local"


@dataclass(frozen=True, slots=True)
class Named:
    """Full names of hosts, as the documents write them.

    Attributes:
        rules: That VirtualServices have.
        headless: Services without an address of their own.
        passing: That a DestinationRule sends to where they are looked up (`simple: PASSTHROUGH`).
        entries: That ServiceEntries have, and their resolution.
        by_authority: Some VirtualService asks by which name the host was called.
        key_hosts: That keys for tokens are fetched from.
        has_star: A header or a query parameter is matched by the regular expression `*`.
    """

    rules: frozenset[str] = frozenset()
    headless: frozenset[str] = frozenset()
    passing: frozenset[str] = frozenset()
    entries: Mapping[str, str] = field(default_factory=dict)
    by_authority: bool = False
    has_star: bool = False
    key_hosts: frozenset[str] = frozenset()


def names_in(documents: Iterable[Json]) -> Named:
    """What these documents name."""
    rules: set[str] = set()
    headless: set[str] = set()
    passing: set[str] = set()
    entries: dict[str, str] = {}
    key_hosts: set[str] = set()
    by_authority = has_star = False
    for document in documents:
        spec = document.get("spec") or {}
        metadata = document.get("metadata") or {}
        namespace = metadata.get("namespace", "default")
        match document.get("kind"):
            case "VirtualService":
                rules.update(_full(host, namespace) for host in spec.get("hosts") or ())
                matches = [match for route in spec.get("http") or () for match in route.get("match") or ()]
                by_authority = by_authority or any(_asks_for_authority(match) for match in matches)
                has_star = has_star or any(_has_star(match) for match in matches)
            case "Service" if spec.get("clusterIP") == "None":
                headless.add(_full(metadata["name"], namespace))
            case "DestinationRule" if "PASSTHROUGH" in set(_balancers(spec)):
                passing.add(_full(spec["host"], namespace))
            case "RequestAuthentication":
                uris = [rule["jwksUri"] for rule in spec.get("jwtRules") or () if rule.get("jwksUri")]
                key_hosts.update(urlsplit(uri).hostname or "" for uri in uris)
            case "ServiceEntry":
                entries.update(dict.fromkeys(spec.get("hosts") or (), spec.get("resolution", "NONE")))
    named = frozenset(rules), frozenset(headless), frozenset(passing), entries, by_authority, has_star
    return Named(*named, frozenset(key_hosts))


def full_names(host: str, namespace: str) -> tuple[str, ...]:
    """What a client of a namespace may mean by a host."""
    host = host.lower().removesuffix(".")
    name, _, rest = host.partition(".")
    of, _, last = rest.partition(".")
    forms = [host]
    if not rest:
        forms.append(f"{name}.{namespace}.{_SUFFIX}")
    elif last in ("", "svc"):
        forms.append(f"{name}.{of}.{_SUFFIX}")
    return tuple(forms)


def _full(host: str, namespace: str) -> str:
    return host.lower() if "." in host or host == "*" else f"{host.lower()}.{namespace}.{_SUFFIX}"


def _asks_for_authority(match: Json) -> bool:
    return "authority" in match or ":authority" in (match.get("headers") or {})


def _has_star(match: Json) -> bool:
    conditions = [one for name in ("headers", "queryParams") for one in (match.get(name) or {}).values()]
    return {"regex": "*"} in conditions


def _balancers(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from (str(one) for name, one in value.items() if name == "simple")
        for one in value.values():
            yield from _balancers(one)
    elif isinstance(value, list):
        for one in value:
            yield from _balancers(one)
