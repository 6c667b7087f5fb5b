"""What compiling a filter for one route has to do with: steps, where they stand, and what filters remember.

A step takes the request and gives None (go on), an answer, or a generator of what it waits for that ends in one of
these.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable
from typing import Any, TypeVar

from msgspec import Struct

from ...exchange.local_reply import LocalReply
from ...resources.filters.settings import FilterSetting, FilterSwitch
from ...routing.header_mutation import MutationLevel
from ..asked import Asked, asked_of
from ..request import InboundRequest
from ..waits import Wait
from .descriptors import RouteLimits

__all__ = ["NO_LIMITS", "FilterStates", "Place", "Result", "Said", "Step", "of_route"]

NO_LIMITS = RouteLimits(is_routed=False)

Result = Generator[Wait, Any, LocalReply | None] | LocalReply | None
Step = Callable[[InboundRequest], Result]
# What routes say of a filter, the most specific first.
Said = list[FilterSetting]

S = TypeVar("S", bound=FilterSetting)
T = TypeVar("T")


class _Kept(Struct, frozen=True):
    settings: FilterSetting
    state: Any


class FilterStates:
    """What filters remember from request to request: tokens, faults under way, keys.

    Settings that an update leaves as they were keep what they remember.

    Args:
        before: Of the policy that is replaced.
    """

    def __init__(self, before: FilterStates | None = None) -> None:
        self._kept: dict[int, _Kept] = {}
        self._kept_before = list(before._kept.values()) if before is not None else []
        self._shared: dict[Hashable, Any] = {}
        self._shared_before = dict(before._shared) if before is not None else {}
        self._asked: dict[int, Asked] = {}

    def of(self, settings: S, make: Callable[[S], T]) -> T:
        """What a filter with these settings remembers: routes that inherit them share it, equal ones do not."""
        known = self._kept.get(id(settings))
        if known is None:
            known = next((one for one in self._kept_before if one.settings == settings), None)
            if known is not None:
                self._kept_before.remove(known)
            state = make(settings) if known is None else known.state
            known = self._kept[id(settings)] = _Kept(settings, state)
        state_of: T = known.state
        return state_of

    def shared(self, key: Hashable, make: Callable[[], T]) -> T:
        """What all that have an equal key share."""
        if key not in self._shared:
            self._shared[key] = self._shared_before[key] if key in self._shared_before else make()
        state: T = self._shared[key]
        return state

    def asked(self, setting: FilterSetting) -> Asked:
        """What a filter's settings ask; many routes share the listener's."""
        known = self._asked.get(id(setting))
        if known is None:
            known = self._asked[id(setting)] = asked_of(setting)
        return known

    def settle(self) -> None:
        """The policy is compiled: what the one before remembered and nobody took over is forgotten."""
        self._kept_before = []
        self._shared_before = {}
        self._asked = {}


class Place(Struct):
    """Where a filter stands, and what it may use.

    Attributes:
        number: In the listener's order.
        name: The filter's.
        where: Of its route, for messages.
        states: What filters remember.
        limits: What the route's requests are counted by.
        has_application: Whether the route leads to the application, and does not answer by itself.
        response_levels: What is done to every answer, also to those of filters before it: a filter adds its own.
    """

    number: int
    name: str
    where: str
    states: FilterStates
    limits: RouteLimits = NO_LIMITS
    has_application: bool = True
    response_levels: tuple[MutationLevel, ...] = ()


def of_route(said: Said, kind: type[S]) -> S | None:
    """The most specific of what routes say of a filter, where it is settings of this kind."""
    given = said[0] if said and said[0] is not FilterSwitch.ENABLED else None
    return given if isinstance(given, kind) else None
