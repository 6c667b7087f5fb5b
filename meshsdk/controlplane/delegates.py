"""VirtualServices that leave some of their routes to others (HTTPRoute.delegate), with those routes in their place.

A delegate's route stands under the conditions of the route that delegates; where the two exclude each other, it is left
out.

Source: istio/istio pilot/pkg/model/virtualservice.go (mergeVirtualServicesIfNeeded, mergeHTTPRoute).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from msgspec.structs import replace

from .http_rules import HeaderOperations, HttpMatch, HttpRoute, StringMatch, VirtualService
from .world import is_exported

__all__ = ["with_delegates"]

_NO_HEADERS = HeaderOperations()


def with_delegates(
    rules: Iterable[VirtualService], warnings: list[str], export_to: tuple[str, ...] = ()
) -> list[VirtualService]:
    """The VirtualServices that have hosts, each with all of its routes.

    Args:
        rules: All of them.
        warnings: Where notes of delegates go that are not there.
        export_to: Of those that do not say it themselves (MeshConfig.default_virtual_service_export_to).
    """
    every = list(rules)
    delegates = {
        (rule.namespace, rule.name): replace(rule, export_to=rule.export_to or export_to)
        for rule in every
        if not rule.hosts
    }
    roots = [rule for rule in every if rule.hosts]
    return [
        replace(rule, routes=tuple(_expanded(rule, delegates, warnings)))
        if any(route.delegate is not None for route in rule.routes)
        else rule
        for rule in roots
    ]


def _expanded(
    rule: VirtualService, delegates: Mapping[tuple[str, str], VirtualService], warnings: list[str]
) -> Iterator[HttpRoute]:
    for route in rule.routes:
        if route.delegate is None:
            yield route
            continue
        delegate = delegates.get(route.delegate)
        if delegate is None or not is_exported(delegate.export_to, delegate.namespace, rule.namespace):
            namespace, name = route.delegate
            warnings.append(f"{rule.where}: there is no VirtualService {namespace}/{name} to delegate to")
            continue
        for one in delegate.routes:
            merged = _merged(route, one) if one.delegate is None else None
            if merged is not None:
                yield merged


def _merged(root: HttpRoute, delegate: HttpRoute) -> HttpRoute | None:
    matches = _merged_matches(root.matches, delegate.matches)
    if matches is None:
        return None
    own_rewrite = delegate.rewrite_uri or delegate.rewrite_regex or delegate.rewrite_authority
    rewriting = delegate if own_rewrite else root
    has_headers = delegate.request_headers != _NO_HEADERS or delegate.response_headers != _NO_HEADERS
    heading = delegate if has_headers else root
    return replace(
        delegate,
        name=f"{root.name}-{delegate.name}" if root.name and delegate.name else delegate.name or root.name,
        matches=matches,
        rewrite_uri=rewriting.rewrite_uri,
        rewrite_regex=rewriting.rewrite_regex,
        rewrite_authority=rewriting.rewrite_authority,
        timeout_seconds=root.timeout_seconds if delegate.timeout_seconds is None else delegate.timeout_seconds,
        retry=delegate.retry or root.retry,
        fault=delegate.fault or root.fault,
        mirrors=delegate.mirrors or root.mirrors,
        request_headers=heading.request_headers,
        response_headers=heading.response_headers,
        delegate=None,
    )


def _merged_matches(root: tuple[HttpMatch, ...], delegate: tuple[HttpMatch, ...]) -> tuple[HttpMatch, ...] | None:
    """The conditions of both; None where they exclude each other."""
    if not root or not delegate:
        return delegate or root
    found: list[HttpMatch] = []
    for one in delegate:
        under = [_both(above, one) for above in root if not _exclude(above, one)]
        if not under:
            return None
        found += under
    return tuple(found)


def _both(root: HttpMatch, delegate: HttpMatch) -> HttpMatch:
    name = f"{root.name}-{delegate.name}" if root.name and delegate.name else delegate.name or root.name
    return HttpMatch(
        name=name,
        uri=delegate.uri or root.uri,
        ignore_uri_case=delegate.ignore_uri_case or root.ignore_uri_case,
        scheme=delegate.scheme or root.scheme,
        method=delegate.method or root.method,
        authority=delegate.authority or root.authority,
        headers={**root.headers, **delegate.headers},
        without_headers={**root.without_headers, **delegate.without_headers},
        query_params={**root.query_params, **delegate.query_params},
        port=delegate.port or root.port,
        source_labels={**root.source_labels, **delegate.source_labels},
        source_namespace=delegate.source_namespace or root.source_namespace,
    )


def _exclude(root: HttpMatch, leaf: HttpMatch) -> bool:
    """Whether a condition of the delegate is no narrower than the root's (hasConflict)."""
    for name in ("uri", "scheme", "method", "authority"):
        above, below = getattr(root, name), getattr(leaf, name)
        if above is not None and below is not None and not _is_narrower(above, below):
            return True
    for name in ("headers", "without_headers", "query_params"):
        above, below = getattr(root, name), getattr(leaf, name)
        if any(key in above and not _is_narrower(above[key], value) for key, value in below.items()):
            return True
    if root.ignore_uri_case is not leaf.ignore_uri_case or (root.port and leaf.port and root.port != leaf.port):
        return True
    if root.source_namespace and leaf.source_namespace != root.source_namespace:
        return True
    return any(root.source_labels.get(key, value) != value for key, value in leaf.source_labels.items())


def _is_narrower(root: StringMatch | None, leaf: StringMatch | None) -> bool:
    """Whether a value that the delegate asks for is one that the root takes; of regular expressions nobody knows."""
    if root is None or leaf is None or "regex" in (root.kind, leaf.kind):
        return False
    if root.kind == "prefix":
        return leaf.value.startswith(root.value)
    return leaf.kind == "exact" and leaf.value == root.value
