"""The filter header_mutation (envoy.extensions.filters.http.header_mutation.v3)."""

from __future__ import annotations

from typing import Any, ClassVar

from msgspec import Struct

from ...errors import ResourceError
from .. import protos
from ..header_mutations import HeaderMutations, check_name, parse_addition
from ..notes import Notes
from ..values import unpack
from .settings import FilterSetting

__all__ = ["FilterHeaderMutations", "parse_header_mutation", "parse_header_mutation_per_route"]


class FilterHeaderMutations(FilterSetting, Struct, frozen=True, gc=False):
    """What the filter header_mutation does (HeaderMutation).

    Each mutation is a level of its own, since this filter carries them out one after the other.
    """

    stands_beside_routes: ClassVar[bool] = True

    request: tuple[HeaderMutations, ...] = ()
    response: tuple[HeaderMutations, ...] = ()
    most_specific_wins: bool = False


def parse_header_mutation(container: Any, where: str, notes: Notes) -> FilterHeaderMutations:
    """A listener's."""
    message = unpack(container, protos.header_mutation_pb2.HeaderMutation, where)
    return _mutations(message.mutations, where, notes, message.most_specific_header_mutations_wins)


def parse_header_mutation_per_route(container: Any, where: str, notes: Notes) -> FilterHeaderMutations:
    """A route's."""
    message = unpack(container, protos.header_mutation_pb2.HeaderMutationPerRoute, where)
    return _mutations(message.mutations, where, notes, False)


_MUTATION_FIELDS = frozenset({"request_mutations", "response_mutations"})


def _mutations(message: Any, where: str, notes: Notes, most_specific_wins: bool) -> FilterHeaderMutations:
    notes.unless_acted_on(message, f"{where}.mutations", _MUTATION_FIELDS)
    return FilterHeaderMutations(
        request=_steps(message.request_mutations, f"{where}.mutations.request_mutations"),
        response=_steps(message.response_mutations, f"{where}.mutations.response_mutations"),
        most_specific_wins=most_specific_wins,
    )


def _steps(mutations: Any, where: str) -> tuple[HeaderMutations, ...]:
    steps = []
    for index, mutation in enumerate(mutations):
        path = f"{where}[{index}]"
        which = mutation.WhichOneof("action")
        if which == "remove":
            check_name(mutation.remove, f"{path}.remove", "removed")
            steps.append(HeaderMutations(remove=(mutation.remove.lower(),)))
        elif which == "append":
            steps.append(HeaderMutations(add=(parse_addition(mutation.append, f"{path}.append"),)))
        else:
            raise ResourceError(f"{path}.{which}", "is a mutation that meshsdk does not know")
    return tuple(steps)
