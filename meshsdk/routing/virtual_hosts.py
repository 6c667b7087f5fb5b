"""Which virtual host an authority belongs to (envoy.config.route.v3.VirtualHost.domains).

Search order: exact name, suffix wildcard (`*.example.com`), prefix wildcard (`example.*`), `*`; among wildcards the
longest wins. A wildcard stands for at least one character. Case does not count.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from .rewrite import split_authority

__all__ = ["VirtualHostIndex"]

T = TypeVar("T")

# Authorities come from requests; remembering their answers must not grow without bound.
_MAX_REMEMBERED = 4096


class VirtualHostIndex(Generic[T]):
    """Finds the entry of an authority.

    Args:
        domains: Entry by domain; domains are lower case.
        ignore_port: Compare without the authority's port (RouteConfiguration.ignore_port_in_host_matching).
    """

    def __init__(self, domains: Mapping[str, T], *, ignore_port: bool = False) -> None:
        self._exact = {domain: entry for domain, entry in domains.items() if "*" not in domain}
        self._default = domains.get("*")
        suffixes = {d[1:]: e for d, e in domains.items() if d.startswith("*") and d != "*"}
        prefixes = {d[:-1]: e for d, e in domains.items() if d.endswith("*") and d != "*"}
        self._suffixes = _by_length(suffixes)
        self._prefixes = _by_length(prefixes)
        self._ignore_port = ignore_port
        self._remembered: dict[str, T | None] = {}

    def find(self, authority: str) -> T | None:
        """The entry of an authority, or None."""
        try:
            return self._remembered[authority]
        except KeyError:
            found = self._search(authority.lower())
            if len(self._remembered) >= _MAX_REMEMBERED:
                self._remembered.clear()
            self._remembered[authority] = found
            return found

    def _search(self, host: str) -> T | None:
        if self._ignore_port:
            host = split_authority(host)[0]
        if host in self._exact:
            return self._exact[host]
        by_suffix = _longest(self._suffixes, host, lambda length: host[-length:])
        if by_suffix is not None:
            return by_suffix
        by_prefix = _longest(self._prefixes, host, lambda length: host[:length])
        return by_prefix if by_prefix is not None else self._default


def _by_length(texts: Mapping[str, T]) -> list[tuple[int, dict[str, T]]]:
    tables: dict[int, dict[str, T]] = {}
    for text, entry in texts.items():
        tables.setdefault(len(text), {})[text] = entry
    return sorted(tables.items(), key=lambda item: item[0], reverse=True)


def _longest(tables: list[tuple[int, dict[str, T]]], host: str, cut: Callable[[int], str]) -> T | None:
    for length, table in tables:
        if length < len(host):
            entry = table.get(cut(length))
            if entry is not None:
                return entry
    return None
