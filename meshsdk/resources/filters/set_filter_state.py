"""What filters keep of a request under a name: the filter set_filter_state, and conditions on it.

Sources: envoy.extensions.filters.http.set_filter_state.v3, envoy.extensions.filters.common.set_filter_state.v3,
envoy.type.matcher.v3.FilterStateMatcher; Envoy docs, advanced/well_known_filter_state.
"""

from __future__ import annotations

from typing import Any

from envoy.extensions.filters.http.set_filter_state.v3 import set_filter_state_pb2
from msgspec import Struct

from ...errors import ResourceError
from ..matching import Network, StringMatcher, parse_cidr, parse_string_matcher
from ..notes import Notes
from ..values import unpack
from .settings import FilterSetting

__all__ = ["FilterStateIs", "FilterStateValue", "SetFilterState", "parse_filter_state_is", "parse_set_filter_state"]

_STRING = "envoy.string"
_ADDRESS = "envoy.network.ip"
_FIELDS = frozenset("object_key factory_key format_string shared_with_upstream skip_if_empty".split())
_FORMAT_FIELDS = frozenset("text_format text_format_source omit_empty_values".split())


class FilterStateValue(Struct, frozen=True, gc=False):
    """A value to be set.

    Attributes:
        text: A format string.
        missing: What stands for a value in it that is not there.
        is_address: It is an IP address, and is not set where it is none.
    """

    key: str
    text: str
    missing: str
    is_address: bool
    skip_if_empty: bool


class SetFilterState(FilterSetting, Struct, frozen=True, gc=False):
    """The filter."""

    values: tuple[FilterStateValue, ...]


class FilterStateIs(Struct, frozen=True, gc=False):
    """A value is there and matches: as a text, or where there is no matcher for texts, as an address."""

    key: str
    string: StringMatcher | None
    networks: tuple[Network, ...] = ()


def parse_set_filter_state(container: Any, where: str, notes: Notes) -> SetFilterState:
    """The filter inside a google.protobuf.Any.

    Raises:
        ResourceError: A value is of a kind that meshsdk does not know.
    """
    message = unpack(container, set_filter_state_pb2.Config, where)
    return SetFilterState(
        tuple(
            _parse_value(one, f"{where}.on_request_headers[{index}]", notes)
            for index, one in enumerate(message.on_request_headers)
        )
    )


def _parse_value(message: Any, where: str, notes: Notes) -> FilterStateValue:
    notes.unless_acted_on(message, where, _FIELDS)
    factory = message.factory_key or message.object_key
    if factory not in (_STRING, _ADDRESS):
        raise ResourceError(f"{where}.factory_key", f"{factory!r} is refused; {_STRING} and {_ADDRESS} are known")
    form, path = message.format_string, f"{where}.format_string"
    notes.unless_acted_on(form, path, _FORMAT_FIELDS)
    which = form.WhichOneof("format")
    if which == "text_format_source" and form.text_format_source.WhichOneof("specifier") == "inline_string":
        text = form.text_format_source.inline_string
    elif which == "text_format":
        text = form.text_format
    else:
        raise ResourceError(f"{path}.{which}", "is refused; use text_format_source.inline_string")
    missing = "" if form.omit_empty_values else "-"
    return FilterStateValue(message.object_key, text, missing, factory == _ADDRESS, message.skip_if_empty)


def parse_filter_state_is(message: Any, where: str) -> FilterStateIs:
    """An envoy.type.matcher.v3.FilterStateMatcher.

    Raises:
        ResourceError: It matches in a way that meshsdk does not know.
    """
    which = message.WhichOneof("matcher")
    if which == "string_match":
        return FilterStateIs(message.key, parse_string_matcher(message.string_match, f"{where}.string_match"))
    if which == "address_match":
        ranges = message.address_match.ranges
        networks = [parse_cidr(one, f"{where}.address_match.ranges[{index}]") for index, one in enumerate(ranges)]
        return FilterStateIs(message.key, None, tuple(networks))
    raise ResourceError(f"{where}.{which}", "is a matcher that meshsdk does not know")
