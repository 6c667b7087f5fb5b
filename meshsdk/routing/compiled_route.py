"""A route with everything worked out that can be before a request comes."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct
from msgspec.structs import replace

from ..resources import DirectResponse, ForwardAction, Listener, Redirect, Route, RouteConfiguration, VirtualHost
from .compiled_filters import NO_FILTERS, Buckets, CompiledFilters, compile_filters
from .compiled_forward import CompiledForward, compile_forward, filter_levels, mutation_levels
from .conditions import Condition, PathCondition, compile_conditions, compile_path
from .formatter import Formatter, compile_format
from .header_mutation import MutationLevel, compile_mutations
from .request_head import RequestHead
from .rewrite import compile_location, compile_path_rewrite
from .tracing import CompiledTracing, compile_tracing

__all__ = ["CompiledRoute", "compile_route"]


class CompiledRoute(Struct, frozen=True):
    """One route, ready to decide. Exactly one of `forward`, `redirect` and `direct_response` is set, or none.

    Attributes:
        location: Of a redirect, or of a direct response with a redirect's status.
        response_levels, filters: Of an answer without an upstream; a forwarded request has its destination's.
        filter_request_levels, filter_response_levels: Header changes of filters, which routes of any kind have.
        path_rewrite: Of a redirect: its response headers may refer to the new path.
        body_format: Of a direct response's body; None is the body as it is.
        place: Among the routes of its virtual host.
        tracing: Decides on the traces of its requests; None leaves them to the application's OpenTelemetry.
    """

    route: Route
    virtual_host: VirtualHost
    path: PathCondition
    conditions: tuple[Condition, ...]
    forward: CompiledForward | None = None
    location: Callable[[RequestHead], str] | None = None
    redirect: Redirect | None = None
    path_rewrite: Callable[[RequestHead], str] | None = None
    direct_response: DirectResponse | None = None
    body_format: Formatter | None = None
    response_levels: tuple[MutationLevel, ...] = ()
    filter_request_levels: tuple[MutationLevel, ...] = ()
    filter_response_levels: tuple[MutationLevel, ...] = ()
    filters: CompiledFilters = NO_FILTERS
    place: int = 0
    tracing: CompiledTracing | None = None

    @property
    def name(self) -> str:
        """The route's name, or what stands for it in messages."""
        return self.route.name or f"{self.path.match.kind.value} {self.path.match.value}"


def _has_location(status: int) -> bool:
    """Envoy: a direct response of such a status says where it comes from (source/common/router/router.cc)."""
    return status == 201 or 300 <= status < 400


def compile_route(
    route: Route,
    virtual_host: VirtualHost,
    configuration: RouteConfiguration,
    listener: Listener,
    buckets: Buckets,
    place: int = 0,
) -> CompiledRoute:
    """A route of a virtual host, compiled.

    Raises:
        ResourceError: A format string is wrong.
    """
    where = f"{configuration.name}: virtual host {virtual_host.name}"
    filters = compile_filters(listener, filter_levels(configuration, virtual_host, route), buckets)
    response = mutation_levels(configuration, virtual_host, route, None, response=True)
    of_filters = compile_mutations(filters.response_mutations, where, of_filters=True)
    compiled = CompiledRoute(
        route=route,
        virtual_host=virtual_host,
        path=compile_path(route.match.path, ignore_parameters=configuration.ignore_path_parameters),
        conditions=compile_conditions(route.match),
        response_levels=(*compile_mutations(response, where), *of_filters),
        filter_request_levels=compile_mutations(filters.request_mutations, where),
        filter_response_levels=of_filters,
        filters=filters,
        place=place,
        tracing=compile_tracing(listener.tracing, listener.request_ids, route.tracing, where),
    )
    match route.action:
        case ForwardAction() as action:
            forward = compile_forward(action, route, virtual_host, configuration, listener, buckets)
            return replace(compiled, forward=forward)
        case Redirect() as redirect:
            return replace(
                compiled,
                location=compile_location(route.match.path, redirect),
                redirect=redirect,
                path_rewrite=compile_path_rewrite(route.match.path, redirect.prefix_rewrite, redirect.regex_rewrite),
            )
        case DirectResponse() as direct:
            text = direct.body_format
            return replace(
                compiled,
                direct_response=direct,
                body_format=compile_format(text, f"{where} body", missing="-") if text else None,
                location=compile_location(route.match.path, Redirect()) if _has_location(direct.status) else None,
            )
        case _:
            return compiled
