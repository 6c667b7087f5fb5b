"""Authorization by somebody else's server (envoy.extensions.filters.http.ext_authz.v3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from envoy.extensions.filters.http.ext_authz.v3 import ext_authz_pb2
from msgspec import Struct, field

from ...errors import ResourceError
from ...xdstp import normalised
from ..matching import (
    FractionalPercent,
    MetadataMatcher,
    StringMatcher,
    parse_metadata_matcher,
    parse_runtime_fraction,
    parse_string_matcher,
)
from ..notes import Notes
from ..values import seconds, unpack
from .settings import FilterSetting

__all__ = [
    "ExtAuthz",
    "ExtAuthzPerRoute",
    "GrpcAuthorization",
    "HttpAuthorization",
    "parse_ext_authz",
    "parse_ext_authz_per_route",
]


_FIELDS = frozenset(
    "grpc_service http_service transport_api_version failure_mode_allow failure_mode_allow_header_add status_on_error"
    " with_request_body include_peer_certificate filter_enabled filter_enabled_metadata allowed_headers"
    " disallowed_headers metadata_context_namespaces stat_prefix encode_raw_headers".split()
)
_HTTP_FIELDS = frozenset("server_uri path_prefix authorization_request authorization_response".split())
_TIMEOUT_SECONDS = 0.2  # GrpcService.timeout and HttpUri.timeout: what Envoy uses where none is set.

Matchers = tuple[StringMatcher, ...]


class GrpcAuthorization(Struct, frozen=True, gc=False):
    """A server of envoy.service.auth.v3.Authorization."""

    cluster: str
    timeout_seconds: float
    metadata: tuple[tuple[str, str], ...] = ()


class HttpAuthorization(Struct, frozen=True, gc=False):
    """A server that is asked by a copy of the request's head.

    Attributes:
        path_prefix: Before the request's own path.
        allowed_request_headers: Which of the request's headers are sent, besides Authorization, Cookie and the like.
        headers_to_add: Sent besides.
        upstream_headers, upstream_headers_to_append: Of its answer, into the request.
        client_headers: Of its refusal, into the response; empty takes all.
        client_headers_on_success: Of its consent, into the response.
    """

    cluster: str
    authority: str
    timeout_seconds: float
    path_prefix: str = ""
    allowed_request_headers: Matchers = ()
    headers_to_add: tuple[tuple[str, str], ...] = ()
    upstream_headers: Matchers = ()
    upstream_headers_to_append: Matchers = ()
    client_headers: Matchers = ()
    client_headers_on_success: Matchers = ()


class ExtAuthz(FilterSetting, Struct, frozen=True, gc=False):
    """The filter.

    Attributes:
        failure_mode_allow: Requests pass where the server cannot be asked.
        failure_mode_allow_header_add: Then they carry `x-envoy-auth-failure-mode-allowed: true`.
        status_on_error: The answer where it cannot be asked.
        max_body_bytes: How much of the body it is told; None is nothing.
        allow_partial_body: A longer body is cut; otherwise it is answered with 413.
        enabled_metadata: Only requests of which earlier filters said this (Istio's CUSTOM action).
        allowed_headers, disallowed_headers: Which request headers the server is told; empty allows all.
        encode_raw_headers: It is told them as they came, each on its own and its value in bytes.
    """

    stands_beside_routes: ClassVar[bool] = True

    service: GrpcAuthorization | HttpAuthorization
    failure_mode_allow: bool = False
    failure_mode_allow_header_add: bool = False
    status_on_error: int = 403
    max_body_bytes: int | None = None
    allow_partial_body: bool = False
    pack_as_bytes: bool = False
    include_peer_certificate: bool = False
    enabled: FractionalPercent | None = None
    enabled_metadata: MetadataMatcher | None = None
    allowed_headers: Matchers = ()
    disallowed_headers: Matchers = ()
    metadata_namespaces: tuple[str, ...] = ()
    encode_raw_headers: bool = False

    @property
    def asked_clusters(self) -> tuple[str, ...]:
        """Whom the filter asks."""
        return (self.service.cluster,)


class ExtAuthzPerRoute(FilterSetting, Struct, frozen=True, gc=False):
    """What a route adds: values that the server is told, and whether it is told the body."""

    context_extensions: Mapping[str, str] = field(default_factory=dict)
    leave_out_body: bool = False


def parse_ext_authz_per_route(container: Any, where: str, notes: Notes) -> ExtAuthzPerRoute | None:
    """The ExtAuthzPerRoute inside a google.protobuf.Any; None switches the filter off."""
    message = unpack(container, ext_authz_pb2.ExtAuthzPerRoute, where)
    if message.disabled:
        return None
    for name in ("with_request_body", "grpc_service", "http_service"):
        if message.check_settings.HasField(name):
            raise ResourceError(f"{where}.check_settings.{name}", "is refused on a route; set it on the filter")
    return ExtAuthzPerRoute(
        dict(message.check_settings.context_extensions), message.check_settings.disable_request_body_buffering
    )


def parse_ext_authz(container: Any, where: str, notes: Notes) -> ExtAuthz:
    """The ExtAuthz inside a google.protobuf.Any.

    Raises:
        ResourceError: It names no server that can be asked.
    """
    message = unpack(container, ext_authz_pb2.ExtAuthz, where)
    notes.unless_acted_on(message, where, _FIELDS)
    if message.HasField("deny_at_disable"):
        raise ResourceError(f"{where}.deny_at_disable", "there is no Envoy runtime in this process")
    body = message.with_request_body
    return ExtAuthz(
        service=_parse_service(message, where, notes),
        failure_mode_allow=message.failure_mode_allow,
        failure_mode_allow_header_add=message.failure_mode_allow_header_add,
        status_on_error=message.status_on_error.code or 403,
        max_body_bytes=body.max_request_bytes if message.HasField("with_request_body") else None,
        allow_partial_body=body.allow_partial_message,
        pack_as_bytes=body.pack_as_bytes,
        include_peer_certificate=message.include_peer_certificate,
        enabled=(
            parse_runtime_fraction(message.filter_enabled, f"{where}.filter_enabled", notes)
            if message.HasField("filter_enabled")
            else None
        ),
        enabled_metadata=(
            parse_metadata_matcher(message.filter_enabled_metadata, f"{where}.filter_enabled_metadata")
            if message.HasField("filter_enabled_metadata")
            else None
        ),
        allowed_headers=_matchers(message.allowed_headers, f"{where}.allowed_headers"),
        disallowed_headers=_matchers(message.disallowed_headers, f"{where}.disallowed_headers"),
        metadata_namespaces=tuple(message.metadata_context_namespaces),
        encode_raw_headers=message.encode_raw_headers,
    )


def _parse_service(message: Any, where: str, notes: Notes) -> GrpcAuthorization | HttpAuthorization:
    which = message.WhichOneof("services")
    if which == "grpc_service":
        grpc = message.grpc_service
        if not grpc.envoy_grpc.cluster_name:
            raise ResourceError(f"{where}.grpc_service", "must name a cluster (envoy_grpc); google_grpc is refused")
        return GrpcAuthorization(
            normalised(grpc.envoy_grpc.cluster_name),
            _TIMEOUT_SECONDS if not grpc.HasField("timeout") else seconds(grpc, "timeout") or 0.0,
            tuple((one.key.lower(), one.value) for one in grpc.initial_metadata),
        )
    if which != "http_service":
        raise ResourceError(where, "must have grpc_service or http_service")
    http = message.http_service
    notes.unless_acted_on(http, f"{where}.http_service", _HTTP_FIELDS)
    asked, answered, path = http.authorization_request, http.authorization_response, f"{where}.http_service"
    authority = http.server_uri.uri.partition("://")[2].partition("/")[0]
    return HttpAuthorization(
        cluster=normalised(http.server_uri.cluster),
        authority=authority or http.server_uri.uri,
        timeout_seconds=seconds(http.server_uri, "timeout") or _TIMEOUT_SECONDS,
        path_prefix=http.path_prefix,
        allowed_request_headers=_matchers(asked.allowed_headers, f"{path}.authorization_request.allowed_headers"),
        headers_to_add=tuple((one.key.lower(), one.value) for one in asked.headers_to_add),
        upstream_headers=_matchers(answered.allowed_upstream_headers, f"{path}.allowed_upstream_headers"),
        upstream_headers_to_append=_matchers(
            answered.allowed_upstream_headers_to_append, f"{path}.allowed_upstream_headers_to_append"
        ),
        client_headers=_matchers(answered.allowed_client_headers, f"{path}.allowed_client_headers"),
        client_headers_on_success=_matchers(
            answered.allowed_client_headers_on_success, f"{path}.allowed_client_headers_on_success"
        ),
    )


def _matchers(message: Any, where: str) -> Matchers:
    return tuple(parse_string_matcher(one, f"{where}.patterns[{index}]") for index, one in enumerate(message.patterns))
