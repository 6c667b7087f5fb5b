"""Filters of HTTPRoute and GRPCRoute, and where their rules send to, as Istio's.

Theory of operation. Where Gateway API's own schema refuses something, that is an error of the rule. Where the schema
takes it and istiod does not carry it out, istiod takes none of the rules of that object: `NotAccepted`.

Source: istio/istio pilot/pkg/config/kube/gateway/conversion.go (convertHTTPRoute, buildDestination, create…Filter).
"""

from __future__ import annotations

from collections.abc import Callable, Container

import re2
from msgspec import Struct
from msgspec.structs import replace

from .fields import Fields
from .gateway_matches import NAME
from .http_rules import Destination, HeaderOperations, HttpRedirect, HttpRoute
from .kubernetes import Meta
from .names import service_host

__all__ = ["FilterHolder", "NotAccepted", "apply_filters", "parse_backends"]

_HEADER_VALUE = re2.compile(r"[!-~]+([\t ]?[!-~]+)*")


class NotAccepted(Exception):
    """istiod does not carry this out, and takes no rule of the object that has it."""


# The field that a filter of a type has.
_FIELDS = {
    "RequestHeaderModifier": "requestHeaderModifier",
    "ResponseHeaderModifier": "responseHeaderModifier",
    "RequestMirror": "requestMirror",
    "RequestRedirect": "requestRedirect",
    "URLRewrite": "urlRewrite",
    "ExtensionRef": "extensionRef",
    "CORS": "cors",
    "ExternalAuth": "externalAuth",
}
_OF_GRPC = ("RequestHeaderModifier", "ResponseHeaderModifier", "RequestMirror", "ExtensionRef")
_REPEATED = ("RequestMirror", "ExtensionRef")
_HEADER_FILTERS = ("RequestHeaderModifier", "ResponseHeaderModifier")


class FilterHolder(Struct, frozen=True):
    """Whose filters these are."""

    meta: Meta
    services: Container[str]
    warnings: list[str]
    is_grpc: bool


def apply_filters(rule: Fields, route: HttpRoute, holder: FilterHolder) -> HttpRoute:
    """A route, which has all matches of its rule, with what the rule's filters do.

    Raises:
        NotAccepted: istiod does not know one of them.
    """
    for kind, setting in _filters(rule, holder):
        apply = _FILTERS.get(kind)
        if apply is None:
            raise NotAccepted(f"{setting.where}: a filter of type {kind} is not carried out by Istio")
        route = apply(setting, route, holder)
    return route


def _filters(rule: Fields, holder: FilterHolder) -> list[tuple[str, Fields]]:
    """Types and settings."""
    found: list[tuple[str, Fields]] = []
    types = _OF_GRPC if holder.is_grpc else tuple(_FIELDS)
    for one in rule.children("filters"):
        one.required_text("type")
        kind = one.choice("type", types)
        setting = one.child(_FIELDS[kind])
        if setting is None:
            raise one.error(_FIELDS[kind], f"must be set for the type {kind}")
        one.finish_exactly()
        if kind not in _REPEATED and any(kind == other for other, _ in found):
            raise one.error("type", f"{kind} stands here twice")
        found.append((kind, setting))
    kinds = [kind for kind, _ in found]
    if "RequestRedirect" in kinds and "URLRewrite" in kinds:
        raise rule.error("filters", "RequestRedirect and URLRewrite exclude each other")
    return found


def _request_headers(setting: Fields, route: HttpRoute, holder: FilterHolder) -> HttpRoute:
    return replace(route, request_headers=_header_operations(setting))


def _response_headers(setting: Fields, route: HttpRoute, holder: FilterHolder) -> HttpRoute:
    return replace(route, response_headers=_header_operations(setting))


def _header_operations(setting: Fields) -> HeaderOperations:
    operations = HeaderOperations(_headers(setting, "set"), _headers(setting, "add"), setting.words("remove"))
    setting.finish()
    return operations


def _headers(setting: Fields, name: str) -> dict[str, str]:
    """By their names in small letters; of two of one name the first holds (headerListToMap)."""
    found: dict[str, str] = {}
    for header in setting.children(name):
        key, value = header.required_text("name"), header.required_text("value")
        header.finish_exactly()
        if not NAME.fullmatch(key):
            raise header.error("name", f"has characters that no name has, is {key!r}")
        if not _HEADER_VALUE.fullmatch(value):
            raise header.error("value", f"has characters that no value has, is {value!r}")
        found.setdefault(key.lower(), value)
    return found


def _mirror(setting: Fields, route: HttpRoute, holder: FilterHolder) -> HttpRoute:
    backend = setting.child("backendRef")
    if backend is None:
        raise setting.error("backendRef", "must be set")
    percent = _mirror_percent(setting)
    try:
        destination, problem = parse_reference(backend, holder)
    except NotAccepted as error:
        if holder.is_grpc:
            raise
        destination, problem = None, str(error)
    backend.finish_exactly()
    setting.finish()
    if problem or destination is None:
        if holder.is_grpc:
            raise NotAccepted(problem)
        setting.warn("backendRef", f"nothing is mirrored: {problem}")
        return route
    # route.go, MirrorPercentByPolicy: a share of zero is no mirror.
    return replace(route, mirrors=(*route.mirrors, (destination, percent))) if percent else route


def _mirror_percent(setting: Fields) -> float:
    fraction, percent = setting.child("fraction"), setting.integer("percent", high=100)
    if fraction is None:
        return 100.0 if percent is None else float(percent)
    if percent is not None:
        raise setting.error("percent", "cannot stand beside fraction")
    numerator, denominator = fraction.integer("numerator"), fraction.integer("denominator", 100, low=1) or 100
    fraction.finish_exactly()
    if numerator is None or numerator > denominator:
        raise fraction.error("numerator", "must be set, and not be greater than denominator")
    return 100.0 * numerator / denominator


def _redirect(setting: Fields, route: HttpRoute, holder: FilterHolder) -> HttpRoute:
    scheme, port = setting.choice("scheme", ("http", "https")), setting.integer("port", low=1, high=65535)
    kind, path = _path_modifier(setting, route)
    code = setting.integer("statusCode", 302) or 0
    if code not in (301, 302, 303, 307, 308):
        raise setting.error("statusCode", f"must be 301, 302, 303, 307 or 308, is {code}")
    redirect = HttpRedirect(
        uri=path if kind == "ReplaceFullPath" else "",
        prefix_rewrite=path if kind == "ReplacePrefixMatch" else "",
        authority=setting.text("hostname"),
        port=port,
        scheme=scheme,
        code=code,
        # "When empty, port (if specified) of the request is used", but a scheme brings its own.
        keeps_request_port=port is None and not scheme,
    )
    setting.finish()
    return replace(route, redirect=redirect)


def _rewrite(setting: Fields, route: HttpRoute, holder: FilterHolder) -> HttpRoute:
    kind, path = _path_modifier(setting, route)
    route = replace(route, rewrite_authority=setting.text("hostname"))
    setting.finish()
    if kind == "ReplaceFullPath":
        return replace(route, rewrite_regex=("/.*", path))
    if kind != "ReplacePrefixMatch":
        return route
    prefix = path.removesuffix("/")
    if prefix:
        return replace(route, rewrite_uri=prefix)
    # route.go, applyHTTPRouteDestination: the prefix goes, and a slash stays where the whole path goes with it.
    uri = route.matches[0].uri if route.matches else None
    separated = uri.value.removesuffix("/") if uri is not None else ""
    return replace(route, rewrite_regex=(f"^{re2.escape(separated)}(/?)(.*)", r"/\2"))


def _path_modifier(setting: Fields, route: HttpRoute) -> tuple[str, str]:
    """How the path is changed, and into what; nothing where it is not."""
    path = setting.child("path")
    if path is None:
        return "", ""
    path.required_text("type")
    kind = path.choice("type", ("ReplaceFullPath", "ReplacePrefixMatch"))
    name = kind[0].lower() + kind[1:]
    if name not in path:
        raise path.error(name, f"must be set for the type {kind}")
    value = path.text(name)
    path.finish_exactly()
    kinds = [match.uri.kind if match.uri is not None else "" for match in route.matches]
    if kind == "ReplacePrefixMatch" and kinds != ["path_separated_prefix"]:
        raise path.error("type", "ReplacePrefixMatch needs a rule with one match, of a path of type PathPrefix")
    return kind, value


def _cors(setting: Fields, route: HttpRoute, holder: FilterHolder) -> HttpRoute:
    # As corsPolicy of a VirtualService: it is about browsers, which are no clients of a mesh.
    holder.warnings.append(f"{setting.where}: is not translated, and has no effect")
    return route


_FILTERS: dict[str, Callable[[Fields, HttpRoute, FilterHolder], HttpRoute]] = {
    "RequestHeaderModifier": _request_headers,
    "ResponseHeaderModifier": _response_headers,
    "RequestMirror": _mirror,
    "RequestRedirect": _redirect,
    "URLRewrite": _rewrite,
    "CORS": _cors,
}


def parse_backends(rule: Fields, holder: FilterHolder) -> tuple[Destination, ...]:
    """Where a rule sends to; empty where nothing has a weight. One that is not there stays, and takes its share."""
    found: list[Destination] = []
    for backend in rule.children("backendRefs"):
        weight = backend.integer("weight", 1, high=1_000_000) or 0
        try:
            destination = _parse_backend(backend, weight, holder)
        except NotAccepted:
            # istiod does not look at what gets nothing.
            if weight:
                raise
        else:
            found += [destination] if weight else []
    return tuple(found)


def _parse_backend(backend: Fields, weight: int, holder: FilterHolder) -> Destination:
    destination, problem = parse_reference(backend, holder)
    if problem and weight:
        holder.warnings.append(f"{backend.where}: its requests are answered with 500: {problem}")
    changes = HttpRoute()
    for kind, setting in _filters(backend, holder):
        if kind not in _HEADER_FILTERS:
            raise NotAccepted(f"{setting.where}: a filter of type {kind} is not carried out by Istio at a backend")
        changes = _FILTERS[kind](setting, changes, holder)
    backend.finish_exactly()
    return replace(
        destination,
        weight=weight,
        request_headers=changes.request_headers,
        response_headers=changes.response_headers,
    )


def parse_reference(backend: Fields, holder: FilterHolder) -> tuple[Destination, str]:
    """Where a reference leads, and what is wrong with it. istiod asks for no ReferenceGrant in the mesh."""
    meta = holder.meta
    group, kind = backend.text("group"), backend.text("kind", "Service")
    name, port = backend.required_text("name"), backend.integer("port", low=1, high=65535)
    namespace = backend.namespace("namespace", meta.namespace)
    if (group, kind) in (("", "Service"), ("multicluster.x-k8s.io", "ServiceImport")):
        if not group and port is None:
            raise backend.error("port", "must be set for a Service")
        if not group and "." in name:
            raise NotAccepted(f"{backend.path('name')}: must be the name of a Service, is {name!r}")
        host = service_host(name, namespace, meta.domain)
    elif (group, kind) == ("networking.istio.io", "Hostname"):
        if "namespace" in backend:
            raise NotAccepted(f"{backend.path('namespace')}: may not be set for a Hostname")
        host = name
    else:
        return Destination(host=""), f"{group or 'core'} {kind} is no kind of backend; known is Service, of group ''"
    if port is None:
        raise NotAccepted(f"{backend.path('port')}: must be set")
    problem = "" if host in holder.services else f"there is no service {host!r}"
    return Destination(host=host, port=port), problem
