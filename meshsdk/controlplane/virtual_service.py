"""VirtualService (istio.networking.v1.VirtualService).

A route with an error matches nothing, and the others stay: read without its condition it would match everything.
"""

from __future__ import annotations

from ..errors import ConfigError
from .fields import Fields
from .http_rules import (
    ByteMatch,
    ByteRoute,
    Destination,
    HeaderOperations,
    HttpFault,
    HttpMatch,
    HttpRedirect,
    HttpRetry,
    HttpRoute,
    StringMatch,
    VirtualService,
)
from .kubernetes import Meta
from .virtual_service_rules import check_http_route, check_virtual_service

__all__ = ["parse_retry", "parse_virtual_service"]


# Fields of HTTPMatchRequest: what is nearly one of them beside `match` was to be a condition.
_CONDITIONS = (
    *("match", "uri", "ignoreUriCase", "scheme", "method", "authority", "withoutHeaders", "queryParams", "port"),
    *("sourceLabels", "sourceNamespace", "gateways"),
)


def parse_virtual_service(spec: Fields, meta: Meta, errors: list[ConfigError]) -> VirtualService | None:
    """A VirtualService; None where it is for gateways only. Routes with an error are left out."""
    hosts = spec.texts("hosts")
    gateways = spec.texts("gateways")
    check_virtual_service(spec.again(), meta.namespace)
    if not hosts and gateways:
        raise spec.error("gateways", "a VirtualService without hosts is for others to delegate to, and has none")
    export_to = spec.texts("exportTo")
    routes = []
    for route in spec.children("http"):
        try:
            check_http_route(route.again())
            parsed = _parse_route(route, meta)
            if parsed is not None:
                routes.append(parsed)
        except ConfigError as error:
            errors.append(error)
    tls = _parse_byte_routes(spec, "tls", meta, errors)
    tcp = _parse_byte_routes(spec, "tcp", meta, errors)
    spec.finish(("hosts", "gateways", "http", "tls", "tcp", "exportTo"))
    if gateways and "mesh" not in gateways:
        spec.warn("gateways", "is for gateways only, and has no effect in a mesh client")
        return None
    return VirtualService(
        name=meta.name,
        namespace=meta.namespace,
        hosts=tuple(meta.full_host(host) for host in hosts),
        routes=tuple(routes),
        where=spec.where,
        export_to=export_to,
        age=meta.age,
        tls=tls,
        tcp=tcp,
    )


def _parse_byte_routes(spec: Fields, name: str, meta: Meta, errors: list[ConfigError]) -> tuple[ByteRoute, ...]:
    routes = []
    for route in spec.children(name):
        try:
            matches = [_parse_byte_match(match) for match in route.children("match")]
            destinations = _parse_destinations(route, meta)
            route.finish(("match",))
        except ConfigError as error:
            errors.append(error)
            continue
        if not matches or any(match is not None for match in matches):
            routes.append(ByteRoute(tuple(match for match in matches if match is not None), destinations))
    return tuple(routes)


def _parse_byte_match(match: Fields) -> ByteMatch | None:
    """A condition; None where it is for gateways, or for addresses, which nobody knows before a host is looked up."""
    gateways, subnets = match.texts("gateways"), match.texts("destinationSubnets")
    labels, namespace = match.labels("sourceLabels"), match.text("sourceNamespace")
    parsed = ByteMatch(
        sni_hosts=tuple(host.lower() for host in match.texts("sniHosts")),
        port=match.integer("port", low=1, high=65535),
        source_labels={} if gateways else labels,
        source_namespace="" if gateways else namespace,
    )
    if subnets:
        match.warn("destinationSubnets", "is not carried out: the route matches nothing")
    match.ignore("sourceSubnet")
    match.finish_exactly()
    return parsed if not subnets and (not gateways or "mesh" in gateways) else None


def _parse_route(route: Fields, meta: Meta) -> HttpRoute | None:
    """A route; None where all that it matches is for gateways (route.go, sourceMatchHTTP)."""
    rewrite, direct = route.child("rewrite"), route.child("directResponse")
    request, response = _parse_headers(route)
    regex: tuple[str, str] | None = None
    if rewrite is not None and (regex_field := rewrite.child("uriRegexRewrite")) is not None:
        regex = (regex_field.required_text("match"), regex_field.text("rewrite"))
    retries = route.child("retries")
    body = direct.child("body") if direct is not None else None
    route.refuse_empty("match")
    matches = [_parse_match(match) for match in route.children("match")]
    parsed = HttpRoute(
        name=route.text("name"),
        matches=tuple(match for match in matches if match is not None),
        destinations=_parse_destinations(route, meta),
        redirect=_parse_redirect(route),
        direct_status=direct.integer("status", low=200, high=599) if direct is not None else None,
        direct_body=(body.base64("bytes") or body.text("string")) if body is not None else "",
        rewrite_uri=rewrite.text("uri") if rewrite is not None else "",
        rewrite_regex=regex,
        rewrite_authority=rewrite.text("authority") if rewrite is not None else "",
        timeout_seconds=route.duration("timeout"),
        retry=parse_retry(retries) if retries is not None else None,
        fault=_parse_fault(route),
        mirrors=_parse_mirrors(route, meta),
        request_headers=request,
        response_headers=response,
        delegate=_parse_delegate(route, meta),
    )
    if rewrite is not None:
        rewrite.finish()
    if direct is not None:
        direct.finish()
    route.finish(_CONDITIONS)
    actions = [
        *(bool(parsed.destinations), parsed.redirect is not None),
        *(parsed.direct_status is not None, parsed.delegate is not None),
    ]
    if sum(actions) != 1:
        raise route.error("route", "exactly one of route, redirect, directResponse and delegate must be set")
    return parsed if parsed.matches or not matches else None


def _parse_delegate(route: Fields, meta: Meta) -> tuple[str, str] | None:
    delegate = route.child("delegate")
    if delegate is None:
        return None
    named = delegate.text("namespace") or meta.namespace, delegate.required_text("name")
    delegate.finish_exactly()
    return named


def _parse_destinations(route: Fields, meta: Meta) -> tuple[Destination, ...]:
    found = []
    for weighted in route.children("route"):
        destination = weighted.child("destination")
        if destination is None:
            raise weighted.error("destination", "must be set")
        request, response = _parse_headers(weighted)
        weight = weighted.integer("weight", 0) or 0
        weighted.finish()
        found.append(_parse_destination(destination, meta, weight, request, response))
    if len(found) > 1 and not any(destination.weight for destination in found):
        raise route.error("route", "the weights of several destinations must not all be 0")
    return tuple(found)


_NOTHING = HeaderOperations()


def _parse_destination(
    destination: Fields,
    meta: Meta,
    weight: int = 0,
    request: HeaderOperations = _NOTHING,
    response: HeaderOperations = _NOTHING,
) -> Destination:
    port = destination.child("port")
    number = port.integer("number", low=1, high=65535) if port is not None else None
    parsed = Destination(
        host=meta.full_host(destination.required_text("host")),
        subset=destination.text("subset"),
        port=number,
        weight=weight,
        request_headers=request,
        response_headers=response,
    )
    destination.finish()
    return parsed


def _parse_headers(holder: Fields) -> tuple[HeaderOperations, HeaderOperations]:
    headers = holder.child("headers")
    if headers is None:
        return _NOTHING, _NOTHING
    operations = []
    for direction in ("request", "response"):
        one = headers.child(direction)
        if one is None:
            operations.append(_NOTHING)
            continue
        operations.append(HeaderOperations(one.labels("set"), one.labels("add"), one.texts("remove")))
        one.finish()
    # With another field these were conditions, of `match`.
    headers.finish_exactly()
    return operations[0], operations[1]


def _parse_match(match: Fields) -> HttpMatch | None:
    """A condition; None where it is for gateways only."""
    gateways = match.texts("gateways")
    # route.go, sourceMatchHTTP: where gateways are named, nothing is asked of the client.
    labels, namespace = match.labels("sourceLabels"), match.text("sourceNamespace")
    parsed = HttpMatch(
        name=match.text("name"),
        source_labels={} if gateways else labels,
        source_namespace="" if gateways else namespace,
        uri=_string_match(match.child("uri")),
        ignore_uri_case=match.boolean("ignoreUriCase"),
        scheme=_string_match(match.child("scheme")),
        method=_string_match(match.child("method")),
        authority=_string_match(match.child("authority")),
        headers={name: _value_match(field) for name, field in match.child_map("headers").items()},
        without_headers={name: _value_match(field) for name, field in match.child_map("withoutHeaders").items()},
        query_params={name: _value_match(field) for name, field in match.child_map("queryParams").items()},
        # To protobuf 0 is nothing.
        port=match.integer("port", high=65535) or None,
    )
    match.ignore("statPrefix")
    # Without a condition that is not known, the route would match more than it may.
    match.finish_exactly()
    return parsed if not gateways or "mesh" in gateways else None


def _string_match(field: Fields | None) -> StringMatch | None:
    """A StringMatch; an empty one matches whatever is there."""
    if field is None:
        return None
    found = [StringMatch(kind, field.text(kind)) for kind in ("exact", "prefix", "regex") if kind in field]
    field.ignore("exact", "prefix", "regex")
    field.finish_exactly()
    if len(found) > 1:
        raise field.error(found[1].kind, f"cannot stand beside {found[0].kind}")
    return found[0] if found else None


def _value_match(field: Fields) -> StringMatch | None:
    """Of a header or parameter: `regex: "*"` is none, and means that it is there (route.go)."""
    match = _string_match(field)
    return None if match == StringMatch("regex", "*") else match


_DERIVED_PORTS = ("FROM_PROTOCOL_DEFAULT", "FROM_REQUEST_PORT")


def _parse_redirect(route: Fields) -> HttpRedirect | None:
    redirect = route.child("redirect")
    if redirect is None:
        return None
    parsed = HttpRedirect(
        uri=redirect.text("uri"),
        authority=redirect.text("authority"),
        port=redirect.integer("port", low=1, high=65535),
        scheme=redirect.text("scheme"),
        code=redirect.integer("redirectCode", 301) or 301,
        prefix_rewrite=redirect.text("prefixRewrite"),
        keeps_request_port=redirect.choice("derivePort", _DERIVED_PORTS) == "FROM_REQUEST_PORT",
    )
    if parsed.port is not None and "derivePort" in redirect:
        raise redirect.error("derivePort", "cannot stand beside port")
    if parsed.code not in (301, 302, 303, 307, 308):
        raise redirect.error("redirectCode", f"must be 301, 302, 303, 307 or 308, is {parsed.code}")
    redirect.finish()
    return parsed


def parse_retry(retries: Fields) -> HttpRetry:
    """An HTTPRetry, of a route or of the mesh."""
    parsed = HttpRetry(
        attempts=retries.integer("attempts", 2) or 0,
        per_try_timeout_seconds=retries.duration("perTryTimeout"),
        retry_on=retries.text("retryOn"),
        backoff_seconds=retries.duration("backoff"),
        ignores_previous_hosts=(
            retries.boolean("retryIgnorePreviousHosts") if "retryIgnorePreviousHosts" in retries else None
        ),
        uses_remote_localities=retries.boolean("retryRemoteLocalities"),
    )
    retries.finish()
    return parsed


# google.golang.org/grpc/codes, by which FaultAbort.grpc_status names them.
_GRPC_STATUSES = (
    *("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS"),
    *("PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED"),
    *("INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"),
)


def _parse_fault(route: Fields) -> HttpFault | None:
    fault = route.child("fault")
    if fault is None:
        return None
    delay, abort = fault.child("delay"), fault.child("abort")
    if abort is not None and "grpcStatus" in abort and "httpStatus" in abort:
        raise abort.error("grpcStatus", "cannot stand beside httpStatus")
    named = abort.choice("grpcStatus", _GRPC_STATUSES) if abort is not None else ""
    parsed = HttpFault(
        delay_seconds=(delay.duration("fixedDelay") or 0.0) if delay is not None else 0.0,
        delay_percent=_percent(delay, "percent"),
        abort_status=(abort.integer("httpStatus", 0, low=200, high=599) or 0) if abort is not None else 0,
        abort_grpc_status=_GRPC_STATUSES.index(named) if named else None,
        abort_percent=_percent(abort, ""),
    )
    for part in (delay, abort, fault):
        if part is not None:
            part.finish()
    return parsed


def _percent(holder: Fields | None, older: str) -> float:
    """HTTPFaultInjection: without a percentage, no request; Delay.percent is the older spelling.

    Args:
        holder: Of `percentage`.
        older: The field that counts where there is none; empty where there is no such field.
    """
    if holder is None:
        return 0.0
    return _share(holder, "percentage", older, 0.0)


def _share(holder: Fields, name: str, older: str, default: float) -> float:
    """A percentage, 0 to 100."""
    percentage = holder.child(name)
    if percentage is not None:
        value = percentage.number("value")
        percentage.finish()
    else:
        value = holder.number(older, default) if older else default
    if not 0 <= value <= 100:
        raise holder.error(name, f"must be between 0 and 100, is {value}")
    return value


def _parse_mirrors(route: Fields, meta: Meta) -> tuple[tuple[Destination, float], ...]:
    """All of them, but those that are switched off by a percentage of 0 (route.go, MirrorPercent)."""
    found = []
    for entry in route.children("mirrors"):
        destination, share = entry.child("destination"), _share(entry, "percentage", "", 100.0)
        if destination is not None:
            found.append((_parse_destination(destination, meta), share))
        entry.finish()
    mirror, share = route.child("mirror"), _share(route, "mirrorPercentage", "mirrorPercent", 100.0)
    if mirror is not None:
        found.append((_parse_destination(mirror, meta), share))
    return tuple((destination, share) for destination, share in found if share)
