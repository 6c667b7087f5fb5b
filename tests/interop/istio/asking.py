"""The requests that a folder is asked: made of what stands in it, so that each of its rules is met and missed."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from .case import Case, Client, Request

__all__ = ["requests_for"]

Json = dict[str, Any]

_DOMAIN = "cluster.local"


def requests_for(case: Case, client: Client, limit: int = 160) -> list[Request]:
    """Requests to every host of a folder in every form of its name, and to hosts that it does not have.

    Args:
        case: The folder; its own requests are always among them.
        client: Who asks.
        limit: So many at the most; which of them is always the same.
    """
    documents = case.documents
    shapes = list(_shapes(documents))
    found: dict[Request, None] = dict.fromkeys(case.requests)
    chance = random.Random(case.name)
    for host, port in dict.fromkeys(_hosts(documents, client)):
        # The first form of a name is asked everything, the others whether they are known.
        for method, target, headers in shapes:
            if not target.startswith("/"):
                continue
            found[Request(host, port, target, method, headers)] = None
    kept = list(found)
    if len(kept) > limit:
        always = kept[: len(case.requests)]
        others = kept[len(case.requests) :]
        # Each host at least once.
        firsts = {(one.host, one.port): one for one in reversed(others)}
        chosen = dict.fromkeys((*always, *firsts.values()))
        for one in chance.sample(others, len(others)):
            if len(chosen) >= limit:
                break
            chosen[one] = None
        kept = list(chosen)
    return kept


def _hosts(documents: list[Json], client: Client) -> Iterator[tuple[str, int]]:
    for document in documents:
        kind, spec = document.get("kind"), document.get("spec") or {}
        metadata = document.get("metadata") or {}
        namespace = metadata.get("namespace", "default")
        if kind == "Service":
            name = metadata.get("name", "")
            full = f"{name}.{namespace}.svc.{_DOMAIN}"
            ports = [port.get("port", 80) for port in spec.get("ports") or ()]
            for port in (*ports, 80):
                yield full, port
                for form in (name, f"{name}.{namespace}", f"{name}.{namespace}.svc", f"{full}.", full.title()):
                    yield form, port
            yield full, 8888
        elif kind == "ServiceEntry":
            for host in spec.get("hosts") or ():
                for port in spec.get("ports") or ():
                    for form in _forms(host, namespace):
                        yield form, port.get("number", 80)
                        yield form, 80
        elif kind == "VirtualService":
            for host in spec.get("hosts") or ():
                for form in _forms(host, namespace):
                    yield form, 80
    yield "nobody", 80
    yield f"nobody.{client.namespace}", 8080
    yield "unknown.example.org", 80


def _forms(host: str, namespace: str) -> Iterator[str]:
    if host == "*":
        yield "anything.example.net"
    elif host.startswith("*"):
        yield f"a{host[1:]}"
        yield f"a.b{host[1:]}"
    else:
        yield host
        if "." not in host:
            yield f"{host}.{namespace}.svc.{_DOMAIN}"
        elif host.endswith(f".svc.{_DOMAIN}"):
            short = host.removesuffix(f".svc.{_DOMAIN}")
            yield short
            yield short.partition(".")[0]
        yield f"{host}."


Headers = tuple[tuple[str, str], ...]
Shape = tuple[str, str, Headers]


def _shapes(documents: list[Json]) -> Iterator[Shape]:
    """Method, target and headers: plain ones, and for each rule one that meets it and some that miss it narrowly."""
    yield "GET", "/", ()
    yield "POST", "/some/path?q=1&x=y", (("x-old", "1"), ("x-user", "ann"), ("cookie", "user=ann; session=1"))
    yield (
        "POST",
        "/pkg.Service/Method",
        (("content-type", "application/grpc"), ("grpc-timeout", "3S"), ("te", "trailers")),
    )
    for document in documents:
        spec = document.get("spec") or {}
        if document.get("kind") == "VirtualService":
            for route in spec.get("http") or ():
                for match in route.get("match") or ():
                    yield from _around(match)
        elif document.get("kind") in ("HTTPRoute", "GRPCRoute"):
            for rule in spec.get("rules") or ():
                for match in rule.get("matches") or ():
                    yield from _around(_as_istios(match))


_KINDS = {"Exact": "exact", "PathPrefix": "prefix", "RegularExpression": "regex"}


def _as_istios(match: Mapping[str, Any]) -> Json:
    """A condition of Gateway API in the words of a VirtualService's."""
    found: Json = {}
    method = match.get("method")
    if isinstance(method, dict):
        kind = _KINDS[method.get("type", "Exact")]
        found["uri"] = {kind: f"/{method.get('service', 'any.Service')}/{method.get('method', 'Any')}"}
    elif method:
        found["method"] = {"exact": method}
    if path := match.get("path"):
        found["uri"] = {_KINDS[path.get("type", "PathPrefix")]: path.get("value", "/")}
    for name in ("headers", "queryParams"):
        found[name] = {one["name"]: {_KINDS[one.get("type", "Exact")]: one["value"]} for one in match.get(name) or ()}
    return found


def _around(match: Mapping[str, Any]) -> Iterator[Shape]:
    uris = _values(match.get("uri"), "/") or ["/"]
    methods = _values(match.get("method"), "GET") or ["GET"]
    query = "&".join(f"{name}={value}" for name, value in _first(match.get("queryParams")).items())
    headers = tuple(_first(match.get("headers")).items())
    good = f"{uris[0]}?{query}" if query else uris[0]
    yield methods[0], good, headers
    for uri in uris[1:]:
        yield methods[0], f"{uri}?{query}" if query else uri, headers
    for method in (*methods[1:], "DELETE"):
        yield method, good, headers
    if headers:
        yield methods[0], good, ()
        for place, (name, value) in enumerate(headers):
            others = headers[:place] + headers[place + 1 :]
            for other in ("", f"{value}x", value.upper(), f"a,{value}"):
                yield methods[0], good, (*others, (name, other))
    if query:
        yield methods[0], uris[0], headers
        yield methods[0], f"{uris[0]}?{query}x", headers
    for name, condition in (match.get("withoutHeaders") or {}).items():
        for value in (*_values(condition, "other"), "other", ""):
            yield methods[0], good, (*headers, (name, value))


def _first(conditions: Any) -> dict[str, str]:
    return {name: (_values(one, "any") or ["any"])[0] for name, one in (conditions or {}).items()}


# What regular expressions of the corpus and of generated folders match, and what they do not.
_GUESSES = ("/v1/a", "/v2/b", "/items/12", "/items/x", "v1", "v2", "canary", "ann", "bob-7", "")


def _values(condition: Any, default: str) -> list[str]:
    """Texts that meet a StringMatch, or nearly."""
    if not condition:
        return []
    if "exact" in condition:
        value = condition["exact"]
        return [value, f"{value}x", value[:-1] or default, value.upper(), f"{value}/"]
    if "prefix" in condition:
        value = condition["prefix"]
        return [f"{value}more", value, value[:-1] or default, value.upper(), f"x{value}", f"{value}/more?z=1"]
    if "regex" in condition:
        return list(_ordered(condition["regex"]))
    return [default]


def _ordered(pattern: str) -> Iterable[str]:
    """Guesses, those that match first."""
    import re

    try:
        compiled = re.compile(pattern)
    except re.error:
        return _GUESSES
    matching = [one for one in _GUESSES if compiled.fullmatch(one)]
    return itertools.chain(matching, [one for one in _GUESSES if one not in matching])
