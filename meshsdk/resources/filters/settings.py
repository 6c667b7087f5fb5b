"""What is said of HTTP filters, whatever their kind.

A listener names its filters in order; a route configuration, a virtual host, a route and a cluster of a split may each
have settings for a filter of that name. The most specific one holds (Envoy docs, http_filters, route specific config).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import ClassVar

from msgspec import Struct

__all__ = ["FilterSetting", "FilterSettings", "FilterSwitch", "HttpFilter", "settings_of"]


class FilterSetting:
    """What a listener or a route says of a filter; each kind has its own, and who holds one need not know which.

    Attributes:
        stands_beside_routes: What a listener says holds beside what a route says, and not in its absence alone.
        counts_by_routes: The filter counts requests by the rate limits of routes, too.
    """

    __slots__ = ()

    stands_beside_routes: ClassVar[bool] = False
    counts_by_routes: ClassVar[bool] = False


class FilterSwitch(FilterSetting, Enum):
    """A filter that a route switches off, or on as the listener has it."""

    DISABLED = "disabled"
    ENABLED = "enabled"


class HttpFilter(Struct, frozen=True, gc=False):
    """A filter: the name that routes know it by, and its settings, the listener's or some route's.

    Attributes:
        is_disabled: It does nothing but for routes that say something of it (HttpFilter.disabled).
        package: Of its protobufs, by which settings are known to be for this kind of filter; empty for all kinds.
    """

    name: str
    setting: FilterSetting
    is_disabled: bool = False
    package: str = ""


FilterSettings = tuple[HttpFilter, ...]


def settings_of(http_filter: HttpFilter, levels: Sequence[FilterSettings]) -> list[FilterSetting]:
    """What is said of a filter.

    Args:
        http_filter: The listener's.
        levels: Where something may be said, the most specific first.
    """
    said = [one for level in levels for one in level if one.name == http_filter.name]
    fitting = [one.setting for one in said if one.package in ("", http_filter.package)]
    if said and said[0].package not in ("", http_filter.package):
        # Envoy: another filter's settings under this one's name hide those of other levels, and change nothing.
        return [FilterSwitch.ENABLED]
    return fitting
