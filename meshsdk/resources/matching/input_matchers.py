"""Matchers of one input by extension (envoy.extensions.matching.input_matchers, xds.type.matcher.v3.CelMatcher)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct

from ...errors import ResourceError
from .. import protos
from ..values import unpack
from .cel import CelCondition, parse_condition
from .matchers import FractionalPercent, StringMatcher, parse_fractional_percent
from .metadata_matcher import ValueMatcher, parse_value_matcher
from .network import Network, parse_cidr

__all__ = ["ChosenByHash", "ChosenShare", "HasValue", "InNetworks", "InputMatcher", "parse_input_matcher"]


class InNetworks(Struct, frozen=True, gc=False):
    """The input is an address in one of some ranges."""

    networks: tuple[Network, ...]


class ChosenByHash(Struct, frozen=True, gc=False):
    """The input's xxHash64, modulo `modulo`, is `threshold` at least."""

    threshold: int
    modulo: int
    seed: int


class ChosenShare(Struct, frozen=True, gc=False):
    """The input's xxHash64 is in a share of all."""

    share: FractionalPercent
    seed: int


class HasValue(Struct, frozen=True, gc=False):
    """The input is metadata, and matches."""

    matcher: ValueMatcher
    invert: bool


InputMatcher = StringMatcher | InNetworks | ChosenByHash | ChosenShare | HasValue | CelCondition


def parse_input_matcher(container: Any, where: str) -> InputMatcher:
    """The extension inside a google.protobuf.Any.

    Raises:
        ResourceError: meshsdk does not know it, or it cannot be read.
    """
    kind = container.type_url.rpartition("/")[2]
    parse = _PARSERS.get(kind)
    if parse is None:
        raise ResourceError(where, f"{kind or 'nothing'} is a matcher that meshsdk does not know")
    message_type, make = parse
    return make(unpack(container, message_type(), where), where)


def _in_networks(message: Any, where: str) -> InNetworks:
    ranges = message.cidr_ranges
    return InNetworks(tuple(parse_cidr(one, f"{where}.cidr_ranges[{index}]") for index, one in enumerate(ranges)))


def _chosen_by_hash(message: Any, where: str) -> ChosenByHash:
    if not message.modulo:
        raise ResourceError(f"{where}.modulo", "must be greater than 0")
    return ChosenByHash(message.threshold, message.modulo, message.seed)


def _chosen_share(message: Any, where: str) -> ChosenShare:
    # Runtime keys have no values here, so the default counts.
    share = message.runtime_fraction.default_value
    return ChosenShare(parse_fractional_percent(share, f"{where}.runtime_fraction.default_value"), message.seed)


def _has_value(message: Any, where: str) -> HasValue:
    return HasValue(parse_value_matcher(message.value, f"{where}.value"), message.invert)


def _cel(message: Any, where: str) -> CelCondition:
    which = message.expr_match.WhichOneof("expr_specifier")
    path = f"{where}.expr_match.{which}"
    match which:
        case "parsed_expr":
            return parse_condition(message.expr_match.parsed_expr.expr, f"{path}.expr")
        case "cel_expr_parsed":
            # The same on the wire as the older message.
            parsed = protos.syntax_pb2.ParsedExpr.FromString(message.expr_match.cel_expr_parsed.SerializeToString())
            return parse_condition(parsed.expr, f"{path}.expr")
        case _:
            raise ResourceError(path, "is refused: give parsed_expr or cel_expr_parsed")


_MATCHERS = "envoy.extensions.matching.input_matchers"
_PARSERS: dict[str, tuple[Callable[[], Any], Callable[[Any, str], InputMatcher]]] = {
    f"{_MATCHERS}.ip.v3.Ip": (lambda: protos.ip_pb2.Ip, _in_networks),
    f"{_MATCHERS}.consistent_hashing.v3.ConsistentHashing": (
        lambda: protos.consistent_hashing_pb2.ConsistentHashing,
        _chosen_by_hash,
    ),
    f"{_MATCHERS}.runtime_fraction.v3.RuntimeFraction": (
        lambda: protos.runtime_fraction_pb2.RuntimeFraction,
        _chosen_share,
    ),
    f"{_MATCHERS}.metadata.v3.Metadata": (lambda: protos.metadata_pb2.Metadata, _has_value),
    "xds.type.matcher.v3.CelMatcher": (lambda: protos.cel_pb2.CelMatcher, _cel),
}
