"""The filter header_mutation, on requests and on every answer (Envoy docs, http_filters/header_mutation_filter)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ...resources import FilterHeaderMutations
from ...resources.filters.settings import FilterSetting
from ...routing import apply_mutations
from ...routing.header_mutation import MutationLevel
from ..peer import compile_changes, format_context
from ..request import Headers, InboundRequest
from .compiling import Place, Said, Step

__all__ = ["compile_filter", "response_change"]


def compile_filter(own: FilterSetting, said: Said, place: Place) -> Step | None:
    """The filter for one route. Envoy: its own come first; of the routes', the last carried out has the last word."""
    if not isinstance(own, FilterHeaderMutations):
        return None
    of_routes = [one for one in said if isinstance(one, FilterHeaderMutations)]
    ordered = [own, *(reversed(of_routes) if own.most_specific_wins else of_routes)]
    where = f"{place.where} filter {place.name}"
    place.response_levels = compile_changes([one for each in ordered for one in each.response], where)
    request = compile_changes([one for each in ordered for one in each.request], where)
    return partial(_mutate, request) if request else None


def _mutate(levels: tuple[MutationLevel, ...], request: InboundRequest) -> None:
    context = format_context(request)
    headers = apply_mutations(levels, request.head.raw_headers, context, of_request=True)
    request.head = request.head.with_headers(headers)


def response_change(levels: tuple[MutationLevel, ...], request: InboundRequest) -> Callable[[Headers, int], Headers]:
    """What levels of header changes do to the answer to a request."""

    def change(headers: Headers, status: int) -> Headers:
        context = format_context(request, status=status)
        return apply_mutations(levels, headers, context)

    return change
