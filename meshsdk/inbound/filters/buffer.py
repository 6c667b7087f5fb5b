"""The filter buffer: the longest body that is let in (Envoy docs, http_filters/buffer_filter)."""

from __future__ import annotations

from functools import partial

from ...resources import Buffer
from ...resources.filters.settings import FilterSetting
from ..request import InboundRequest
from .compiling import Place, Said, Step, of_route

__all__ = ["compile_filter"]


def compile_filter(own: FilterSetting, said: Said, place: Place) -> Step | None:
    """The filter for one route."""
    settings = of_route(said, Buffer) or own
    if not isinstance(settings, Buffer) or settings.max_request_bytes is None:
        return None
    return partial(_bound_body, settings.max_request_bytes)


def _bound_body(longest: int, request: InboundRequest) -> None:
    known = request.max_body_bytes
    request.max_body_bytes = longest if known is None else min(known, longest)
