"""What a route does with a request: protobuf to data (envoy.config.route.v3.RouteAction, RedirectAction, …)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...errors import ResourceError
from ...xdstp import normalised
from .. import protos
from ..filters.rate_limit_rules import parse_rules_of
from ..filters.registry import parse_filter_settings
from ..header_mutations import parse_request_headers, parse_response_headers
from ..matching import FractionalPercent, PathMatch, RewriteTemplate, parse_rewrite_template, parse_runtime_fraction
from ..notes import Notes
from ..values import Metadatum, checked_regex, lb_criteria, optional, seconds, unpack
from .retry import parse_retry_policy
from .route import (
    Action,
    CookieHash,
    DirectResponse,
    ForwardAction,
    HashPolicy,
    HeaderHash,
    InternalRedirectPolicy,
    MirrorPolicy,
    NonForwardingAction,
    QueryParameterHash,
    Redirect,
    RegexRewrite,
    StreamDuration,
    WeightedCluster,
)

__all__ = ["parse_action", "parse_hash_policies", "parse_mirrors", "parse_retry"]

_ACTION_FIELDS = frozenset(
    "cluster cluster_header weighted_clusters cluster_not_found_response_code prefix_rewrite regex_rewrite"
    " path_rewrite_policy path_rewrite host_rewrite_literal auto_host_rewrite host_rewrite_header"
    " host_rewrite_path_regex host_rewrite append_x_forwarded_host timeout idle_timeout retry_policy"
    " max_stream_duration max_grpc_timeout grpc_timeout_offset hash_policy request_mirror_policies"
    " internal_redirect_policy hedge_policy metadata_match priority rate_limits include_vh_rate_limits"
    " early_data_policy cors".split()
)
_WEIGHTED_FIELDS = frozenset("clusters total_weight header_name use_hash_policy".split())
_WEIGHT_FIELDS = frozenset(
    "name cluster_header weight metadata_match request_headers_to_add request_headers_to_remove"
    " response_headers_to_add response_headers_to_remove host_rewrite_literal typed_per_filter_config".split()
)
_MIRROR_FIELDS = frozenset(
    "cluster cluster_header runtime_fraction trace_sampled disable_shadow_host_suffix_append"
    " host_rewrite_literal".split()
)
_HEDGE_FIELDS = frozenset(["hedge_on_per_try_timeout"])


def parse_action(message: Any, match: PathMatch, where: str, notes: Notes) -> Action:
    """The action of a Route."""
    which = message.WhichOneof("action")
    if which == "route":
        return _parse_forward(message.route, match, f"{where}.route", notes)
    if which == "redirect":
        return _parse_redirect(message.redirect, match, f"{where}.redirect")
    if which == "direct_response":
        return _parse_direct_response(message.direct_response, f"{where}.direct_response")
    if which == "non_forwarding_action":
        return NonForwardingAction()
    raise ResourceError(f"{where}.{which}", "is an action that meshsdk does not know")


_REWRITES = ("prefix_rewrite", "regex_rewrite", "path_rewrite_policy", "path_rewrite")


def _parse_forward(message: Any, match: PathMatch, where: str, notes: Notes) -> ForwardAction:
    notes.unless_acted_on(message, where, _ACTION_FIELDS)
    rewrites = [name for name in _REWRITES if _is_set(message, name)]
    if len(rewrites) > 1:
        raise ResourceError(where, f"only one of {', '.join(rewrites)} may be set")
    if message.prefix_rewrite and match.template is not None:
        raise ResourceError(f"{where}.prefix_rewrite", "needs a prefix, path or regex match, not a path template")
    if message.upgrade_configs:
        raise ResourceError(f"{where}.upgrade_configs", "upgrades are refused: an HTTP client library sends none")
    notes.unless_acted_on(message.hedge_policy, f"{where}.hedge_policy", _HEDGE_FIELDS)
    timeout = seconds(message, "timeout")
    not_found = protos.route_components_pb2.RouteAction.ClusterNotFoundResponseCode
    statuses = {not_found.SERVICE_UNAVAILABLE: 503, not_found.NOT_FOUND: 404, not_found.INTERNAL_SERVER_ERROR: 500}
    metadata_match = lb_criteria(message.metadata_match)
    clusters, cluster_header = _parse_cluster_specifier(message, metadata_match, where, notes)
    weighted = message.weighted_clusters
    return ForwardAction(
        clusters=clusters,
        cluster_header=cluster_header,
        split_header=weighted.header_name.lower(),
        split_by_hash=weighted.use_hash_policy.value,
        # RouteAction.timeout: 15 s where unset; zero disables it.
        timeout_seconds=15.0 if timeout is None else timeout or None,
        idle_timeout_seconds=seconds(message, "idle_timeout"),
        stream_duration=optional(message, "max_stream_duration", _parse_stream_duration),
        max_grpc_timeout_seconds=seconds(message, "max_grpc_timeout"),
        grpc_timeout_offset_seconds=seconds(message, "grpc_timeout_offset") or 0.0,
        prefix_rewrite=message.prefix_rewrite,
        regex_rewrite=_parse_regex_rewrite(message, "regex_rewrite", where),
        template_rewrite=_parse_template_rewrite(message, match, where),
        path_format=message.path_rewrite,
        host_format=message.host_rewrite,
        host_rewrite=message.host_rewrite_literal,
        host_rewrite_header=message.host_rewrite_header.lower(),
        host_rewrite_regex=_parse_regex_rewrite(message, "host_rewrite_path_regex", where),
        auto_host_rewrite=message.auto_host_rewrite.value,
        append_x_forwarded_host=message.append_x_forwarded_host,
        retry_policy=parse_retry(message, where, notes),
        hedge_on_per_try_timeout=optional(
            message, "hedge_policy", lambda policy: bool(policy.hedge_on_per_try_timeout)
        ),
        cluster_not_found_status=statuses[message.cluster_not_found_response_code],
        hash_policies=parse_hash_policies(message, where),
        mirrors=parse_mirrors(message, where, notes),
        internal_redirect=optional(
            message,
            "internal_redirect_policy",
            lambda policy: _parse_internal_redirect(policy, f"{where}.internal_redirect_policy"),
        ),
        high_priority=message.priority == 1,
        metadata_match=metadata_match,
        rate_limits=parse_rules_of(message.rate_limits, f"{where}.rate_limits"),
        includes_virtual_host_limits=message.include_vh_rate_limits.value,
    )


def _is_set(message: Any, name: str) -> bool:
    field = message.DESCRIPTOR.fields_by_name[name]
    return bool(message.HasField(name) if field.has_presence else getattr(message, name))


def _parse_cluster_specifier(
    message: Any, metadata_match: tuple[tuple[str, Metadatum], ...], where: str, notes: Notes
) -> tuple[tuple[WeightedCluster, ...], str]:
    which = message.WhichOneof("cluster_specifier")
    if which == "cluster":
        return (WeightedCluster(normalised(message.cluster), 1, metadata_match=metadata_match),), ""
    if which == "cluster_header":
        return (), message.cluster_header.lower()
    if which == "weighted_clusters":
        path = f"{where}.weighted_clusters"
        return _parse_weighted_clusters(message.weighted_clusters, metadata_match, path, notes), ""
    raise ResourceError(f"{where}.{which}", "cluster specifier plugins are refused; name clusters")


def _parse_weighted_clusters(
    message: Any, metadata_match: tuple[tuple[str, Metadatum], ...], where: str, notes: Notes
) -> tuple[WeightedCluster, ...]:
    notes.unless_acted_on(message, where, _WEIGHTED_FIELDS)
    clusters = []
    for index, weighted in enumerate(message.clusters):
        path = f"{where}.clusters[{index}]"
        notes.unless_acted_on(weighted, path, _WEIGHT_FIELDS)
        if bool(weighted.name) == bool(weighted.cluster_header):
            raise ResourceError(f"{path}.name", "exactly one of name and cluster_header must be set")
        if not weighted.HasField("weight"):
            raise ResourceError(f"{path}.weight", "must be set")
        merged = dict(metadata_match) | dict(lb_criteria(weighted.metadata_match))
        clusters.append(
            WeightedCluster(
                name=normalised(weighted.name),
                weight=weighted.weight.value,
                cluster_header=weighted.cluster_header.lower(),
                metadata_match=tuple(sorted(merged.items(), key=lambda item: item[0])),
                request_headers=parse_request_headers(weighted, path),
                response_headers=parse_response_headers(weighted, path),
                host_rewrite=weighted.host_rewrite_literal,
                filters=parse_filter_settings(weighted, path, notes),
            )
        )
    total = sum(cluster.weight for cluster in clusters)
    if not 0 < total <= 0xFFFFFFFF:
        raise ResourceError(f"{where}.clusters", f"the sum of the weights must be between 1 and 2^32-1, is {total}")
    return tuple(clusters)


def _parse_stream_duration(message: Any) -> StreamDuration:
    return StreamDuration(
        max_seconds=seconds(message, "max_stream_duration"),
        grpc_timeout_header_max_seconds=seconds(message, "grpc_timeout_header_max"),
        grpc_timeout_header_offset_seconds=seconds(message, "grpc_timeout_header_offset") or 0.0,
    )


def _parse_template_rewrite(message: Any, match: PathMatch, where: str) -> RewriteTemplate | None:
    if not message.HasField("path_rewrite_policy"):
        return None
    path = f"{where}.path_rewrite_policy.typed_config"
    config = unpack(
        message.path_rewrite_policy.typed_config, protos.uri_template_rewrite_pb2.UriTemplateRewriteConfig, path
    )
    return parse_rewrite_template(config.path_template_rewrite, match.template, f"{path}.path_template_rewrite")


def parse_hash_policies(message: Any, where: str) -> tuple[HashPolicy, ...]:
    """The hash_policy of a message."""
    policies: list[HashPolicy] = []
    for index, policy in enumerate(message.hash_policy):
        path = f"{where}.hash_policy[{index}]"
        which = policy.WhichOneof("policy_specifier")
        if which == "header":
            rewrite = _parse_regex_rewrite(policy.header, "regex_rewrite", f"{path}.header")
            policies.append(HeaderHash(policy.header.header_name.lower(), rewrite, policy.terminal))
        elif which == "cookie":
            cookie = policy.cookie
            policies.append(
                CookieHash(
                    name=cookie.name,
                    ttl_seconds=int(cookie.ttl.seconds) if cookie.HasField("ttl") else None,
                    path=cookie.path,
                    attributes=tuple((one.name, one.value) for one in cookie.attributes),
                    terminal=policy.terminal,
                )
            )
        elif which == "query_parameter":
            policies.append(QueryParameterHash(policy.query_parameter.name, policy.terminal))
        elif which not in ("connection_properties", "filter_state"):
            raise ResourceError(f"{path}.{which}", "is a hash policy that meshsdk does not know")
    return tuple(policies)


def parse_mirrors(message: Any, where: str, notes: Notes) -> tuple[MirrorPolicy, ...]:
    """The request_mirror_policies of a message."""
    return tuple(
        _parse_mirror(policy, f"{where}.request_mirror_policies[{index}]", notes)
        for index, policy in enumerate(message.request_mirror_policies)
    )


def _parse_mirror(message: Any, where: str, notes: Notes) -> MirrorPolicy:
    notes.unless_acted_on(message, where, _MIRROR_FIELDS)
    if bool(message.cluster) == bool(message.cluster_header):
        raise ResourceError(f"{where}.cluster", "exactly one of cluster and cluster_header must be set")
    fraction = FractionalPercent(100, 100)
    if message.HasField("runtime_fraction"):
        fraction = parse_runtime_fraction(message.runtime_fraction, f"{where}.runtime_fraction", notes)
    return MirrorPolicy(
        cluster=normalised(message.cluster),
        cluster_header=message.cluster_header.lower(),
        fraction=fraction,
        host_suffix=not message.disable_shadow_host_suffix_append,
        host_rewrite=message.host_rewrite_literal,
    )


_REDIRECT_STATUSES = frozenset({301, 302, 303, 307, 308})
_PREDICATES = "envoy.extensions.internal_redirect"
_PREVIOUS_ROUTES = f"{_PREDICATES}.previous_routes.v3.PreviousRoutesConfig"
_SAFE_CROSS_SCHEME = f"{_PREDICATES}.safe_cross_scheme.v3.SafeCrossSchemeConfig"
_ALLOW_LISTED = f"{_PREDICATES}.allow_listed_routes.v3.AllowListedRoutesConfig"


def _parse_internal_redirect(message: Any, where: str) -> InternalRedirectPolicy:
    previous_routes = safe_cross_scheme = False
    allowed: frozenset[str] | None = None
    for index, predicate in enumerate(message.predicates):
        path = f"{where}.predicates[{index}].typed_config"
        kind = predicate.typed_config.type_url.rpartition("/")[2]
        if kind == _PREVIOUS_ROUTES:
            previous_routes = True
        elif kind == _SAFE_CROSS_SCHEME:
            safe_cross_scheme = True
        elif kind == _ALLOW_LISTED:
            config = unpack(predicate.typed_config, protos.allow_listed_routes_config_pb2.AllowListedRoutesConfig, path)
            allowed = frozenset(config.allowed_route_names)
        else:
            # A predicate that is not asked would let redirects through that it forbids.
            raise ResourceError(path, f"{predicate.name!r} is a redirect predicate that meshsdk does not know")
    statuses = frozenset(message.redirect_response_codes) & _REDIRECT_STATUSES
    limit = optional(message, "max_internal_redirects")
    return InternalRedirectPolicy(
        statuses=statuses or frozenset({302}),
        max_redirects=1 if limit is None else limit,
        same_scheme_only=not message.allow_cross_scheme_redirect,
        safe_cross_scheme=safe_cross_scheme,
        previous_routes=previous_routes,
        allowed_routes=allowed,
        response_headers_to_copy=tuple(name.lower() for name in message.response_headers_to_copy),
    )


def _parse_redirect(message: Any, match: PathMatch, where: str) -> Redirect:
    if message.prefix_rewrite and match.template is not None:
        raise ResourceError(f"{where}.prefix_rewrite", "needs a prefix, path or regex match, not a path template")
    status = {0: 301, 1: 302, 2: 303, 3: 307, 4: 308}[message.response_code]
    return Redirect(
        status=status,
        https=message.https_redirect,
        scheme=message.scheme_redirect,
        host=message.host_redirect,
        port=message.port_redirect,
        path=message.path_redirect,
        prefix_rewrite=message.prefix_rewrite,
        regex_rewrite=_parse_regex_rewrite(message, "regex_rewrite", where),
        strip_query=message.strip_query,
    )


def _parse_direct_response(message: Any, where: str) -> DirectResponse:
    body = _parse_data_source(message.body, f"{where}.body")
    if not message.HasField("body_format"):
        return DirectResponse(message.status, body)
    form = message.body_format
    which = form.WhichOneof("format")
    if which == "text_format":
        text = form.text_format
    elif which == "text_format_source":
        text = _parse_data_source(form.text_format_source, f"{where}.body_format.text_format_source").decode()
    else:
        raise ResourceError(f"{where}.body_format.{which}", "is refused; use text_format_source")
    return DirectResponse(message.status, body, text, form.content_type or "text/plain")


def _parse_regex_rewrite(message: Any, field: str, where: str) -> RegexRewrite | None:
    if not message.HasField(field):
        return None
    rewrite = getattr(message, field)
    pattern = checked_regex(rewrite.pattern.regex, f"{where}.{field}.pattern.regex")
    return RegexRewrite(pattern, rewrite.substitution)


# Envoy: max_direct_response_body_size_bytes is 4 KiB by default; a library can carry more, but not without bound.
_MAX_DIRECT_RESPONSE_BYTES = 1 << 20


def _parse_data_source(message: Any, where: str) -> bytes:
    which = message.WhichOneof("specifier")
    if which is None:
        return b""
    if which == "inline_bytes":
        body = bytes(message.inline_bytes)
    elif which == "inline_string":
        body = message.inline_string.encode()
    elif which == "filename":
        try:
            body = Path(message.filename).read_bytes()
        except OSError as error:
            raise ResourceError(f"{where}.filename", f"cannot be read: {error}") from error
    else:
        raise ResourceError(f"{where}.{which}", "is refused; use inline_string, inline_bytes or filename")
    if len(body) > _MAX_DIRECT_RESPONSE_BYTES:
        raise ResourceError(where, f"is {len(body)} bytes long; at most {_MAX_DIRECT_RESPONSE_BYTES} are taken")
    return body


def parse_retry(message: Any, where: str, notes: Notes) -> Any:
    """The retry_policy of a message, or None."""
    return optional(message, "retry_policy", lambda policy: parse_retry_policy(policy, f"{where}.retry_policy", notes))
