"""Global rate limits: a server counts for all (envoy.extensions.filters.http.ratelimit.v3)."""

from __future__ import annotations

from typing import Any, ClassVar

from envoy.extensions.filters.http.ratelimit.v3 import rate_limit_pb2
from msgspec import Struct

from ...errors import ResourceError
from ...xdstp import normalised
from ..header_mutations import NO_MUTATIONS, HeaderMutations, parse_addition
from ..matching import FractionalPercent, parse_fractional_percent, parse_runtime_fraction
from ..notes import Notes
from ..values import seconds, unpack
from .local_rate_limit import NEVER
from .rate_limit_rules import RateLimitRule, VirtualHostRules, parse_rules_of_filter
from .settings import FilterSetting

__all__ = [
    "RateLimit",
    "RateLimitPerRoute",
    "RateLimitService",
    "parse_rate_limit",
    "parse_rate_limit_per_route",
]


_FIELDS = frozenset(
    "domain stage request_type timeout failure_mode_deny rate_limited_as_resource_exhausted rate_limit_service"
    " enable_x_ratelimit_headers disable_x_envoy_ratelimited_header rate_limited_status response_headers_to_add"
    " status_on_error stat_prefix filter_enabled filter_enforced failure_mode_deny_percent rate_limits".split()
)
_PER_ROUTE_FIELDS = frozenset("vh_rate_limits rate_limits domain".split())
ALWAYS = FractionalPercent(100, 100)
_TIMEOUT_SECONDS = 0.02  # RateLimit.timeout


class RateLimitService(Struct, frozen=True, gc=False):
    """A server of envoy.service.ratelimit.v3.RateLimitService."""

    cluster: str
    timeout_seconds: float = _TIMEOUT_SECONDS
    metadata: tuple[tuple[str, str], ...] = ()


class RateLimit(FilterSetting, Struct, frozen=True, gc=False):
    """The filter.

    Attributes:
        domain: Whose limits they are, to the server.
        request_type: internal, external or both.
        deny_on_failure: Share of the requests that are refused where the server cannot be asked.
        status: Of refusals.
        rules: Of the filter itself; where it has any, routes are not looked at.
        tells_limits: Responses carry X-RateLimit-Limit, -Remaining and -Reset.
        tells_refusal: Refusals carry `x-envoy-ratelimited: true`.
    """

    stands_beside_routes: ClassVar[bool] = True
    counts_by_routes: ClassVar[bool] = True

    service: RateLimitService
    domain: str
    stage: int = 0
    request_type: str = "both"
    deny_on_failure: FractionalPercent = NEVER
    status: int = 429
    status_on_error: int = 500
    as_resource_exhausted: bool = False
    tells_limits: bool = False
    tells_refusal: bool = True
    response_headers: HeaderMutations = NO_MUTATIONS
    enabled: FractionalPercent = ALWAYS
    enforced: FractionalPercent = ALWAYS
    rules: tuple[RateLimitRule, ...] = ()

    @property
    def asked_clusters(self) -> tuple[str, ...]:
        """Whom the filter asks."""
        return (self.service.cluster,)


class RateLimitPerRoute(FilterSetting, Struct, frozen=True, gc=False):
    """What a route says of the filter."""

    virtual_host: VirtualHostRules = VirtualHostRules.OVERRIDE
    rules: tuple[RateLimitRule, ...] = ()
    domain: str = ""


def parse_rate_limit(container: Any, where: str, notes: Notes) -> RateLimit:
    """The RateLimit inside a google.protobuf.Any.

    Raises:
        ResourceError: It names no server that can be asked.
    """
    message = unpack(container, rate_limit_pb2.RateLimit, where)
    notes.unless_acted_on(message, where, _FIELDS)

    def fraction(field: str) -> FractionalPercent:
        if not message.HasField(field):
            return ALWAYS
        return parse_runtime_fraction(getattr(message, field), f"{where}.{field}", notes)

    denied = FractionalPercent(100 if message.failure_mode_deny else 0, 100)
    if message.HasField("failure_mode_deny_percent"):
        path = f"{where}.failure_mode_deny_percent"
        denied = parse_fractional_percent(message.failure_mode_deny_percent.default_value, f"{path}.default_value")
    timeout = seconds(message, "timeout")
    status = message.rate_limited_status.code
    return RateLimit(
        service=_parse_service(message, where, _TIMEOUT_SECONDS if timeout is None else timeout),
        domain=message.domain,
        stage=message.stage,
        request_type=message.request_type or "both",
        deny_on_failure=denied,
        # RateLimit.rate_limited_status: below 400 it is 429.
        status=status if status >= 400 else 429,
        status_on_error=message.status_on_error.code or 500,
        as_resource_exhausted=message.rate_limited_as_resource_exhausted,
        tells_limits=bool(message.enable_x_ratelimit_headers),
        tells_refusal=not message.disable_x_envoy_ratelimited_header,
        response_headers=HeaderMutations(
            tuple(
                parse_addition(option, f"{where}.response_headers_to_add[{index}]")
                for index, option in enumerate(message.response_headers_to_add)
            )
        ),
        enabled=fraction("filter_enabled"),
        enforced=fraction("filter_enforced"),
        rules=parse_rules_of_filter(message.rate_limits, f"{where}.rate_limits"),
    )


def _parse_service(message: Any, where: str, timeout_seconds: float) -> RateLimitService:
    path = f"{where}.rate_limit_service"
    config = message.rate_limit_service
    # core.v3.ApiVersion: 0 is AUTO, which Envoy takes for the removed V2 here and refuses.
    if config.transport_api_version != 2:
        raise ResourceError(f"{path}.transport_api_version", "must be V3")
    grpc = config.grpc_service
    if not grpc.envoy_grpc.cluster_name:
        raise ResourceError(f"{path}.grpc_service", "must name a cluster (envoy_grpc); google_grpc is refused")
    metadata = tuple((one.key.lower(), one.value) for one in grpc.initial_metadata)
    return RateLimitService(normalised(grpc.envoy_grpc.cluster_name), timeout_seconds, metadata)


def parse_rate_limit_per_route(container: Any, where: str, notes: Notes) -> RateLimitPerRoute:
    """The RateLimitPerRoute inside a google.protobuf.Any."""
    message = unpack(container, rate_limit_pb2.RateLimitPerRoute, where)
    notes.unless_acted_on(message, where, _PER_ROUTE_FIELDS)
    return RateLimitPerRoute(
        VirtualHostRules(message.vh_rate_limits),
        parse_rules_of_filter(message.rate_limits, f"{where}.rate_limits"),
        message.domain,
    )
