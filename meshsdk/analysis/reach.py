"""Rules that no request reaches, since those before them take all of theirs.

Theory of operation. One condition *covers* another if whatever meets the second meets the first. That is said only
where it is certain: of regular expressions nothing is known but that equal ones are equal. A rule without conditions
covers all; one that leaves its routes to a delegate covers nothing, since nobody here knows which of them match.

Source: istio/istio pkg/config/validation/validation.go (analyzeUnreachableHTTPRules and its twins for tcp and tls),
which compares prefixes alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct

from .destinations import is_of_mesh
from .findings import Finding, finding
from .gateway_routes import GATEWAY
from .objects import NETWORKING, Objects, Thing, listed, mapping, text, texts

__all__ = ["find_unreachable"]

_TOLD = ("name", "statPrefix")


class _Match(Struct, frozen=True):
    """A condition of a rule.

    Attributes:
        rule, number: Which of the conditions of which rule.
        is_only: A rule without conditions.
    """

    rule: int
    number: int
    data: Mapping[str, Any]
    is_only: bool = False


def find_unreachable(objects: Objects) -> Iterator[Finding]:
    """Rules and conditions of VirtualServices and of routes of Gateway API that never match."""
    for thing in objects.of_kind(NETWORKING, "VirtualService", every=True):
        if is_of_mesh(thing):
            for kind, covers in (("http", _covers_http), ("tls", _covers_tls), ("tcp", _covers_tcp)):
                rules = [one for _, one in listed(thing.spec, kind)]
                yield from _unreachable(objects, thing, kind, rules, covers)
    for thing in objects.of_kind(GATEWAY, "HTTPRoute", "GRPCRoute", every=True):
        yield from _same_matches(objects, thing)


def _unreachable(
    objects: Objects, thing: Thing, kind: str, rules: Sequence[Mapping[str, Any]], covers: Any
) -> Iterator[Finding]:
    before: list[_Match] = []
    for index, rule in enumerate(rules):
        own = [_Match(index, number, one) for number, one in listed(rule, "match")] or [_Match(index, 0, {}, True)]
        found: list[tuple[_Match, _Match]] = []
        for match in own:
            wider = next((one for one in before if _is_same(one, match) or covers(one.data, match.data)), None)
            if wider is not None:
                found.append((match, wider))
            before.append(match)
        earlier = [wider for _, wider in found if wider.rule < index]
        if len(earlier) == len(own):
            text_of = f"{_named(kind, rule, index)} never matches: {_by_whom(kind, rules, earlier)}"
            place = objects.place(thing.document, f".spec.{kind}[{index}]")
            yield finding("unreachable-rule", text_of, place)
        else:
            for match, wider in found:
                text_of = f"changes nothing: {_by_whom(kind, rules, [wider])}"
                place = objects.place(thing.document, f".spec.{kind}[{index}].match[{match.number}]")
                yield finding("ineffective-match", text_of, place)
        if mapping(rule, "delegate"):
            del before[-len(own) :]


def _is_same(one: _Match, other: _Match) -> bool:
    """Whether they ask for the same, be it known here or not."""
    return _asked(one.data) == _asked(other.data)


def _asked(match: Mapping[str, Any]) -> Mapping[str, Any]:
    return {name: value for name, value in match.items() if name not in _TOLD}


def _named(kind: str, rule: Mapping[str, Any], index: int) -> str:
    name = text(rule, "name")
    return f"{kind}[{index}] ({name})" if name else f"{kind}[{index}]"


def _by_whom(kind: str, rules: Sequence[Mapping[str, Any]], wider: Sequence[_Match]) -> str:
    named = dict.fromkeys(_named(kind, rules[one.rule], one.rule) for one in wider)
    takes = "takes" if len(named) == 1 else "take"
    what = "every request" if any(_is_catch_all(kind, one) for one in wider) else "all that it would"
    return f"{' and '.join(named)} {takes} {what}"


def _is_catch_all(kind: str, match: _Match) -> bool:
    return match.is_only or (kind == "http" and _covers_http(match.data, {}))


# As a request has it: a name of a header has no case.
_STRINGS = ("scheme", "method", "authority")
_HTTP = frozenset(
    (*_STRINGS, *_TOLD, "uri", "ignoreUriCase", "headers", "withoutHeaders", "queryParams", "port", "sourceLabels")
) | {"gateways", "sourceNamespace"}
_BYTES = frozenset((*_TOLD, "sniHosts", "port", "sourceLabels", "gateways", "sourceNamespace"))


def _covers_http(wide: Mapping[str, Any], narrow: Mapping[str, Any]) -> bool:
    if not wide.keys() <= _HTTP or not _covers_client(wide, narrow):
        return False
    if not _covers_uri(wide, narrow):
        return False
    if not all(_takes(wide.get(name), narrow.get(name)) for name in _STRINGS if name in wide):
        return False
    if not _takes_all(_lower(mapping(wide, "headers")), _lower(mapping(narrow, "headers"))):
        return False
    if not _takes_all(mapping(wide, "queryParams"), mapping(narrow, "queryParams")):
        return False
    # What must not be there is the other way round.
    without, other = _lower(mapping(wide, "withoutHeaders")), _lower(mapping(narrow, "withoutHeaders"))
    return all(name in other and _takes(other[name], value) for name, value in without.items())


def _covers_client(wide: Mapping[str, Any], narrow: Mapping[str, Any]) -> bool:
    """Whether it is for all clients and ports that the other is for."""
    gateways = texts(wide, "gateways")
    of_other = texts(narrow, "gateways")
    return (
        wide.get("port") in (None, narrow.get("port"))
        and wide.get("sourceNamespace") in (None, "", narrow.get("sourceNamespace"))
        and mapping(wide, "sourceLabels").items() <= mapping(narrow, "sourceLabels").items()
        and (not gateways or (bool(of_other) and set(of_other) <= set(gateways)))
    )


def _covers_uri(wide: Mapping[str, Any], narrow: Mapping[str, Any]) -> bool:
    own, other = wide.get("uri"), narrow.get("uri")
    if own is None or own in ({"prefix": "/"}, {"prefix": ""}):
        return True
    ignores, is_ignored = wide.get("ignoreUriCase") is True, narrow.get("ignoreUriCase") is True
    if is_ignored and not ignores:
        return False
    return _takes(_folded(own), _folded(other)) if ignores else _takes(own, other)


def _folded(match: Any) -> Any:
    if not isinstance(match, dict):
        return match
    return {kind: one.lower() if isinstance(one, str) and kind != "regex" else one for kind, one in match.items()}


def _takes(wide: Any, narrow: Any) -> bool:
    """Whether a StringMatch takes all values that another takes; one without a value takes all that are there."""
    if narrow is None and wide is not None:
        return False
    if wide is None or wide == {} or wide == narrow:
        return True
    if not isinstance(wide, dict) or not isinstance(narrow, dict) or not narrow:
        return False
    prefix, value = wide.get("prefix"), narrow.get("exact", narrow.get("prefix"))
    return isinstance(prefix, str) and isinstance(value, str) and value.startswith(prefix)


def _takes_all(wide: Mapping[str, Any], narrow: Mapping[str, Any]) -> bool:
    return all(name in narrow and _takes(value or {}, narrow[name] or {}) for name, value in wide.items())


def _lower(headers: Mapping[str, Any]) -> Mapping[str, Any]:
    return {str(name).lower(): value for name, value in headers.items()}


def _covers_tcp(wide: Mapping[str, Any], narrow: Mapping[str, Any]) -> bool:
    return wide.keys() <= _BYTES and _covers_client(wide, narrow)


def _covers_tls(wide: Mapping[str, Any], narrow: Mapping[str, Any]) -> bool:
    own, other = texts(wide, "sniHosts"), texts(narrow, "sniHosts")
    covers = not own or (bool(other) and all(any(_is_under(one, host) for host in own) for one in other))
    return covers and _covers_tcp(wide, narrow)


def _is_under(host: str, wildcard: str) -> bool:
    return host == wildcard or (wildcard.startswith("*") and host.removeprefix("*").endswith(wildcard[1:]))


# HTTPRouteMatch.path, where it is left out.
_ANY_PATH = {"type": "PathPrefix", "value": "/"}


def _same_matches(objects: Objects, thing: Thing) -> Iterator[Finding]:
    """Of Gateway API the more specific condition comes first, wherever it stands: of equal ones the first."""
    seen: list[tuple[Mapping[str, Any], int]] = []
    for index, rule in listed(thing.spec, "rules"):
        own = [_without_any_path(one) for _, one in listed(rule, "matches")] or [{}]
        taken = [before for one in own for match, before in seen if match == one]
        if all(any(match == one for match, _ in seen) for one in own):
            text_of = f"rules[{index}] never matches: rules[{taken[0]}] has the same matches, and comes before it"
            place = objects.place(thing.document, f".spec.rules[{index}]")
            yield finding("unreachable-rule", text_of, place)
        seen += [(one, index) for one in own]


def _without_any_path(match: Mapping[str, Any]) -> Mapping[str, Any]:
    return {name: value for name, value in match.items() if (name, value) != ("path", _ANY_PATH)}
