"""What filters keep of a request under a name (Envoy: source/extensions/filters/common/set_filter_state)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ...resources.filters.set_filter_state import FilterStateIs, FilterStateValue, SetFilterState
from ...resources.filters.settings import FilterSetting
from ...routing.formatter import Formatter, compile_format
from ...routing.string_match import compile_string
from ..connection import Address, is_within, parse_address
from ..peer import check_operators, format_context
from ..request import InboundRequest
from .compiling import Place, Said, Step, of_route

__all__ = ["compile_filter", "compile_filter_state", "compile_set_filter_state"]


def compile_set_filter_state(settings: SetFilterState, where: str) -> Callable[[InboundRequest], None]:
    """The filter for one route.

    Raises:
        ResourceError: A format string is wrong, or asks of a connection what is not known here.
    """
    values = []
    for one in settings.values:
        path = f"{where} filter state {one.key}"
        check_operators(one.text, path)
        values.append((one, compile_format(one.text, path, one.missing)))
    return partial(_set, values)


def _set(values: list[tuple[FilterStateValue, Formatter]], request: InboundRequest) -> None:
    context = format_context(request)
    for one, text_of in values:
        text = text_of(context)
        if not text and one.skip_if_empty:
            continue
        value: str | Address | None = parse_address(text) if one.is_address else text
        if value is not None:
            request.filter_state[one.key] = value


def compile_filter_state(condition: FilterStateIs) -> Callable[[InboundRequest], bool]:
    """A function that says whether a request's filter state matches."""
    key, networks = condition.key, condition.networks
    if condition.string is not None:
        matches = compile_string(condition.string)

        def is_text(request: InboundRequest) -> bool:
            value = request.filter_state.get(key)
            return value is not None and matches(str(value))

        return is_text

    def is_in(request: InboundRequest) -> bool:
        value = request.filter_state.get(key)
        return not isinstance(value, str) and is_within(value, networks)

    return is_in


def compile_filter(own: FilterSetting, said: Said, place: Place) -> Step | None:
    """The filter for one route.

    Raises:
        ResourceError: A format string is wrong, or asks of a connection what is not known here.
    """
    settings = of_route(said, SetFilterState) or own
    return compile_set_filter_state(settings, place.where) if isinstance(settings, SetFilterState) else None
