"""Matchers of one input by extension, compiled (Envoy: source/extensions/matching/input_matchers)."""

from __future__ import annotations

from collections.abc import Callable

from ...resources import StringMatcher
from ...resources.matching import ChosenByHash, ChosenShare, InNetworks, InputMatcher
from ...routing.hash_key import hash_text
from ...routing.string_match import compile_string
from ..connection import is_within, parse_address

__all__ = ["compile_text_matcher"]


def compile_text_matcher(matcher: InputMatcher) -> Callable[[str], bool]:
    """A function that says whether a text matches; never where the matcher is not for texts."""
    match matcher:
        case StringMatcher():
            return compile_string(matcher)
        case InNetworks(networks=networks):
            return lambda text: is_within(parse_address(text), networks)
        case ChosenByHash(threshold=threshold, modulo=modulo, seed=seed):
            return lambda text: hash_text(text, seed) % modulo >= threshold
        case ChosenShare(share=share, seed=seed):
            return lambda text: hash_text(text, seed) % share.denominator < share.numerator
        case _:
            return lambda text: False
