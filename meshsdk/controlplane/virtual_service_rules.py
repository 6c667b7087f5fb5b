"""What a VirtualService must be for Istio's own servers to take it.

Source: istio pkg/config/validation/{validation,virtualservice}.go (ValidateVirtualService, validateHTTPRoute).
"""

from __future__ import annotations

from http import HTTPStatus

from .checks import (
    check_duration,
    check_export_to,
    check_full_host,
    check_header_changes,
    check_header_name,
    check_host,
    check_labels,
    check_name,
    check_regex,
    is_address,
    is_label,
)
from .fields import Fields
from .world import hosts_overlap

__all__ = ["check_http_route", "check_virtual_service"]


def check_virtual_service(spec: Fields, namespace: str) -> None:
    """All but its HTTP routes, of which one that is wrong takes none of the others with it."""
    hosts, gateways = spec.texts("hosts"), spec.texts("gateways")
    for name in ("gateways", "tls", "tcp") if not hosts else ():
        if name in spec:
            raise spec.error(name, "must not be set where hosts names none: it is a delegate")
    is_for_mesh = not gateways or all(gateway == "mesh" for gateway in gateways)
    for gateway in gateways:
        _check_gateway(spec, gateway)
    for host in hosts:
        if not is_address(host):
            check_host(spec, "hosts", host)
        if host == "*" and is_for_mesh:
            raise spec.error("hosts", "'*' is not allowed without a gateway")
    for index, one in enumerate(hosts):
        for other in hosts[index + 1 :]:
            if hosts_overlap(one.lower(), other.lower()):
                raise spec.error("hosts", f"{one!r} and {other!r} are the same")
    if not any(spec.raw(name) for name in ("http", "tls", "tcp")):
        raise spec.error("http", "must be set, or tls, or tcp")
    check_export_to(spec, namespace)


def _check_gateway(spec: Fields, gateway: str) -> None:
    namespace, slash, name = gateway.partition("/")
    if not slash:
        check_full_host(spec, "gateways", gateway)
    elif not is_label(namespace) or not is_label(name):
        raise spec.error("gateways", f"{gateway!r} must be a name, or namespace/name")


def check_http_route(route: Fields) -> None:
    """One HTTP route."""
    _check_action(route)
    for match in route.children("match"):
        _check_match(match)
    authorities = check_header_changes(route)
    rewrite = route.child("rewrite")
    if rewrite is not None:
        _check_rewrite(rewrite)
        authorities += [rewrite.text("authority")] if rewrite.text("authority") else []
    if len(authorities) > 1:
        raise route.error("headers", "sets the authority, which is set more than once")
    _check_cors(route.child("corsPolicy"))
    _check_fault(route.child("fault"))
    _check_destinations(route)
    _check_redirect(route)
    _check_direct_response(route.child("directResponse"))
    _check_retries(route.child("retries"))
    check_duration(route, "timeout")


_BESIDE = {"redirect": ("route", "directResponse", "fault", "rewrite"), "directResponse": ("route", "fault", "rewrite")}


def _check_action(route: Fields) -> None:
    if "delegate" in route:
        for name in ("redirect", "route"):
            if name in route:
                raise route.error(name, "cannot stand beside delegate")
    for action, others in _BESIDE.items():
        for name in others:
            if action in route and route.raw(name):
                raise route.error(name, f"cannot stand beside {action}")
    if "mirror" in route and route.raw("mirrors"):
        raise route.error("mirrors", "cannot stand beside mirror")


def _check_match(match: Fields) -> None:
    for name in ("scheme", "method", "authority", "uri"):
        condition = match.child(name)
        if condition is not None:
            _check_condition(condition, may_have_empty_prefix=name == "uri")
    for name in ("headers", "withoutHeaders", "queryParams"):
        for key, condition in match.child_map(name).items():
            if name != "queryParams":
                check_header_name(match, name, key)
            # `*` is none of RE2's, and means that it is there.
            if condition.text("regex") != "*":
                _check_condition(condition)
    check_labels(match, "sourceLabels")
    if match.text("sourceNamespace") and not is_label(match.text("sourceNamespace")):
        raise match.error("sourceNamespace", f"{match.text('sourceNamespace')!r} is no name of a namespace")
    for gateway in match.texts("gateways"):
        _check_gateway(match, gateway)


def _check_condition(condition: Fields, *, may_have_empty_prefix: bool = False) -> None:
    if "prefix" in condition and not condition.text("prefix") and not may_have_empty_prefix:
        raise condition.error("prefix", "must not be empty")
    if "regex" in condition:
        check_regex(condition, "regex", condition.text("regex"))


def _check_rewrite(rewrite: Fields) -> None:
    regex = rewrite.child("uriRegexRewrite")
    if rewrite.text("uri") and regex is not None:
        raise rewrite.error("uriRegexRewrite", "cannot stand beside uri")
    if not rewrite.text("uri") and not rewrite.text("authority") and regex is None:
        raise rewrite.error("uri", "must be set, or uriRegexRewrite, or authority")
    if regex is not None:
        regex.required_text("rewrite")
        check_regex(regex, "match", regex.required_text("match"))


_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE", "*")


def _check_cors(cors: Fields | None) -> None:
    if cors is None:
        return
    for origin in cors.children("allowOrigins"):
        if not any(origin.text(name) for name in ("exact", "prefix", "regex")):
            raise origin.error("exact", "must be set, or prefix, or regex")
        _check_condition(origin)
    for method in cors.texts("allowMethods"):
        if method not in _METHODS:
            raise cors.error("allowMethods", f"{method!r} is no method")
    for name in ("allowHeaders", "exposeHeaders"):
        for header in cors.texts(name):
            if header.startswith(":"):
                raise cors.error(name, f"{header!r} is no name of a header")
            check_header_name(cors, name, header)
    check_duration(cors, "maxAge")
    if (cors.duration("maxAge") or 0) % 1:
        raise cors.error("maxAge", "must be whole seconds")


def _check_fault(fault: Fields | None) -> None:
    if fault is None:
        return
    delay, abort = fault.child("delay"), fault.child("abort")
    if delay is None and abort is None:
        raise fault.error("abort", "must be set, or delay")
    for part in (delay, abort):
        percentage = part.child("percentage") if part is not None else None
        if percentage is not None and 0 < percentage.number("value") < 0.0001:
            raise percentage.error("value", "must be 0, or 0.0001 at least")
    if delay is not None:
        check_duration(delay, "fixedDelay")
        if "exponentialDelay" in delay:
            raise delay.error("exponentialDelay", "is not supported")
    if abort is not None and "http2Error" in abort:
        raise abort.error("http2Error", "is not supported")


def _check_destinations(route: Fields) -> None:
    for weighted in route.children("route"):
        check_header_changes(weighted)
        _check_destination(weighted.child("destination"))
    for mirror in route.children("mirrors"):
        if "destination" not in mirror:
            raise mirror.error("destination", "must be set")
        _check_destination(mirror.child("destination"))
    _check_destination(route.child("mirror"))


def _check_destination(destination: Fields | None) -> None:
    if destination is None:
        return
    host, subset, port = destination.text("host"), destination.text("subset"), destination.child("port")
    check_host(destination, "host", host)
    if host == "*":
        raise destination.error("host", "'*' is no destination")
    if subset:
        check_name(destination, "subset", subset)
    if port is not None and port.integer("number", low=1, high=65535) is None:
        raise port.error("number", "must be set")


def _check_redirect(route: Fields) -> None:
    redirect = route.child("redirect")
    if redirect is None:
        return
    if redirect.text("uri") and redirect.text("prefixRewrite"):
        raise redirect.error("prefixRewrite", "cannot stand beside uri")
    if not any(redirect.raw(name) for name in ("uri", "prefixRewrite", "authority", "scheme", "port", "derivePort")):
        raise redirect.error("uri", "must be set, or authority, scheme, or port")
    if redirect.text("scheme") not in ("", "http", "https"):
        raise redirect.error("scheme", f"must be http or https, is {redirect.text('scheme')!r}")
    if redirect.text("prefixRewrite"):
        for match in route.children("match"):
            uri = match.child("uri")
            if uri is not None and "prefix" not in uri:
                raise match.error("uri", "must be a prefix where a redirect has prefixRewrite")


_MAX_BODY = 1 << 20


def _check_direct_response(direct: Fields | None) -> None:
    if direct is None:
        return
    if direct.integer("status", low=200, high=599) is None:
        raise direct.error("status", "must be set")
    body = direct.child("body")
    text = body.text("string") or body.text("bytes") if body is not None else ""
    if body is not None and len(text) > _MAX_BODY:
        raise body.error("string", f"must have {_MAX_BODY} bytes at most, has {len(text)}")


_RETRY_ON = frozenset(
    (
        *("5xx", "gateway-error", "reset", "reset-before-request", "connect-failure", "retriable-4xx"),
        *("refused-stream", "retriable-status-codes", "retriable-headers", "envoy-ratelimited"),
        *("http3-post-connect-failure", "cancelled", "deadline-exceeded", "internal", "resource-exhausted"),
        "unavailable",
        *(str(status.value) for status in HTTPStatus),
    )
)


def _check_retries(retries: Fields | None) -> None:
    if retries is None:
        return
    if not retries.integer("attempts", 0):
        for name in ("perTryTimeout", "retryOn", "retryRemoteLocalities"):
            if retries.raw(name) not in (None, ""):
                raise retries.error(name, "has no meaning without attempts, which must be set")
    check_duration(retries, "perTryTimeout", "backoff")
    for one in retries.text("retryOn").split(",") if retries.text("retryOn") else ():
        if one not in _RETRY_ON:
            raise retries.error("retryOn", f"{one!r} is no condition")
