"""Matchers of one input by extension, compiled (Envoy: source/extensions/matching/input_matchers)."""

from __future__ import annotations

from collections.abc import Callable

import xxhash

from ..resources import StringMatcher
from ..resources.input_matchers import ChosenByHash, ChosenShare, InNetworks, InputMatcher
from ..routing.string_match import compile_string
from .connection import parse_address

__all__ = ["compile_text_matcher"]


def compile_text_matcher(matcher: InputMatcher) -> Callable[[str], bool]:
    """A function that says whether a text matches; never where the matcher is not for texts."""
    match matcher:
        case StringMatcher():
            return compile_string(matcher)
        case InNetworks(networks=networks):

            def is_in(text: str) -> bool:
                address = parse_address(text)
                return address is not None and any(
                    one.version == address.version and address in one for one in networks
                )

            return is_in
        case ChosenByHash(threshold=threshold, modulo=modulo, seed=seed):
            return lambda text: _hash(text, seed) % modulo >= threshold
        case ChosenShare(share=share, seed=seed):
            return lambda text: _hash(text, seed) % share.denominator < share.numerator
        case _:
            return lambda text: False


def _hash(text: str, seed: int) -> int:
    return xxhash.xxh64_intdigest(text.encode("latin-1", "replace"), seed)
