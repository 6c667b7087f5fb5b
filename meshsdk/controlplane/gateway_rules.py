"""Rules of HTTPRoute and GRPCRoute as routes, one for each condition.

Source: istio/istio pilot/pkg/config/kube/gateway/conversion.go (convertHTTPRoute, convertGRPCRoute).
"""

from __future__ import annotations

from msgspec.structs import replace

from ..errors import ConfigError
from .fields import Fields
from .gateway_filters import FilterHolder, apply_filters, parse_backends
from .gateway_matches import parse_grpc_match, parse_http_match
from .http_rules import HttpMatch, HttpRetry, HttpRoute, StringMatch

__all__ = ["parse_rules"]

# What an HTTPRoute without rules, and a rule without matches, has by the schema.
_EVERYTHING = HttpMatch(uri=StringMatch("path_separated_prefix", "/"))
# What requests get that have nowhere to go: nothing has a weight, or there is no such Service or port
# (Gateway API, HTTPRouteRule.backendRefs).
_NOWHERE = 500

# Near misses of these beside `matches` were to be conditions.
_CONDITIONS = ("matches", "path", "method", "headers", "queryParams")
_RETRY_ON = ("connect-failure", "refused-stream", "unavailable", "cancelled")


def parse_rules(spec: Fields, holder: FilterHolder, errors: list[ConfigError]) -> list[HttpRoute]:
    """The routes of an object, in the order in which they are written. A rule with an error is left out.

    Raises:
        NotAccepted: istiod takes none of its rules.
    """
    routes: list[HttpRoute] = []
    spec.refuse_empty("rules")
    if "rules" not in spec and not holder.is_grpc:
        return [_with_action(HttpRoute(name=_name_of(holder, 0), matches=(_EVERYTHING,)))]
    for position, rule in enumerate(spec.children("rules")):
        try:
            routes += _parse_rule(rule, position, holder)
        except ConfigError as error:
            errors.append(error)
    return routes


def _name_of(holder: FilterHolder, position: int) -> str:
    return f"{holder.meta.namespace}.{holder.meta.name}.{position}"


def _parse_rule(rule: Fields, position: int, holder: FilterHolder) -> list[HttpRoute]:
    route = HttpRoute(
        name=rule.text("name") or _name_of(holder, position),
        matches=_parse_matches(rule, holder),
        destinations=parse_backends(rule, holder),
        missing_cluster_status=_NOWHERE,
    )
    if not holder.is_grpc:
        route = _with_limits(rule, route)
    route = _with_action(apply_filters(rule, route, holder))
    if route.redirect is not None and "backendRefs" in rule:
        raise rule.error("backendRefs", "cannot stand beside RequestRedirect")
    rule.finish(_CONDITIONS)
    # Each has its own place in the order of all of a Service's routes.
    return [replace(route, matches=(match,)) for match in route.matches] or [route]


def _parse_matches(rule: Fields, holder: FilterHolder) -> tuple[HttpMatch, ...]:
    rule.refuse_empty("matches")
    if holder.is_grpc:
        return tuple(parse_grpc_match(match) for match in rule.children("matches"))
    if "matches" not in rule:
        return (_EVERYTHING,)
    return tuple(parse_http_match(match) for match in rule.children("matches"))


def _with_action(route: HttpRoute) -> HttpRoute:
    if route.destinations or route.redirect is not None:
        return route
    return replace(route, direct_status=_NOWHERE)


def _with_limits(rule: Fields, route: HttpRoute) -> HttpRoute:
    """With timeouts and retries."""
    whole = backend = None
    timeouts = rule.child("timeouts")
    if timeouts is not None:
        whole, backend = timeouts.duration("request"), timeouts.duration("backendRequest")
        if whole and backend and backend > whole:
            raise timeouts.error("backendRequest", "must not be longer than request")
        timeouts.finish()
    retry = rule.child("retry")
    if retry is None:
        # With one attempt the request is as long as the attempt (convertHTTPRoute).
        return replace(route, timeout_seconds=backend or whole or None)
    return replace(
        route, timeout_seconds=whole or None, retry=_parse_retry(retry, per_try_timeout_seconds=backend or None)
    )


def _parse_retry(retry: Fields, per_try_timeout_seconds: float | None) -> HttpRetry:
    codes = retry.raw("codes") or ()
    if not isinstance(codes, list | tuple) or not all(type(code) is int and 400 <= code <= 599 for code in codes):
        raise retry.error("codes", "must be a list of status codes from 400 to 599")
    attempts = retry.integer("attempts", 2, low=1)
    parsed = HttpRetry(
        attempts=attempts or 0,
        per_try_timeout_seconds=per_try_timeout_seconds,
        retry_on=",".join((*_RETRY_ON, *map(str, codes))),
        backoff_seconds=retry.duration("backoff"),
    )
    retry.finish()
    return parsed
