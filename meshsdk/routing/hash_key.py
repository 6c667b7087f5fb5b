"""What a request is hashed by, compiled (RouteAction.hash_policy; Envoy source/common/http/hash_policy.cc)."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import xxhash
from msgspec import Struct

from ..resources import CookieHash, HashPolicy, HeaderHash
from .request_head import RequestHead
from .string_match import compile_regex_rewrite

__all__ = ["HashKey", "compile_hash_policies", "hash_text", "new_cookie_value"]

_64_BITS = (1 << 64) - 1


class HashKey(Struct, frozen=True):
    """The hash of a request, and the Set-Cookie that its response must carry where the key was made here."""

    value: int
    set_cookie: str = ""


Hash = Callable[[RequestHead], HashKey | None]
MakeCookieValue = Callable[[], str]


def hash_text(text: str, seed: int = 0) -> int:
    """xxHash64 of a text's bytes (Envoy: HashUtil::xxHash64)."""
    return xxhash.xxh64_intdigest(text.encode("latin-1", "replace"), seed)


def new_cookie_value() -> str:
    """Envoy hashes the two addresses of the downstream connection; here, where there is none, chance must do."""
    return f"{random.getrandbits(64):016x}"


def compile_hash_policies(
    policies: Sequence[HashPolicy], make_cookie_value: MakeCookieValue
) -> Callable[[RequestHead], HashKey | None] | None:
    """A function from a request to its hash, or None where no policy has anything to hash; None without policies.

    Args:
        policies: In order; each result is folded into the one before.
        make_cookie_value: Gives the value of a cookie that must be made.
    """
    if not policies:
        return None
    hashes = [(_compile(policy, make_cookie_value), policy.terminal) for policy in policies]

    def hash_key(head: RequestHead) -> HashKey | None:
        folded: int | None = None
        set_cookie = ""
        for one, terminal in hashes:
            key = one(head)
            if key is not None:
                # Rotated, so that two equal policies do not cancel each other out.
                old = 0 if folded is None else ((folded << 1) | (folded >> 63)) & _64_BITS
                folded = old ^ key.value
                set_cookie = set_cookie or key.set_cookie
            if terminal and folded is not None:
                break
        return None if folded is None else HashKey(folded, set_cookie)

    return hash_key


def _compile(policy: HashPolicy, make_cookie_value: MakeCookieValue) -> Hash:
    if isinstance(policy, HeaderHash):
        return _hash_header(policy)
    if isinstance(policy, CookieHash):
        return _hash_cookie(policy, make_cookie_value)
    name = policy.name

    def hash_query_parameter(head: RequestHead) -> HashKey | None:
        value = head.query_parameter(name)
        return None if value is None else HashKey(hash_text(value))

    return hash_query_parameter


def _hash_header(policy: HeaderHash) -> Hash:
    name = policy.name
    rewrite = compile_regex_rewrite(policy.rewrite) if policy.rewrite is not None else None

    def hash_header(head: RequestHead) -> HashKey | None:
        values = head.values(name)
        if not values:
            return None
        if rewrite is not None:
            values = [rewrite(value) for value in values]
        if len(values) == 1:
            return HashKey(hash_text(values[0]))
        # Sorted, so that the order of the values does not count; each hash is the seed of the next.
        seed = 0
        for value in sorted(value.encode("latin-1", "replace") for value in values):
            seed = xxhash.xxh64_intdigest(value, seed)
        return HashKey(seed)

    return hash_header


def _hash_cookie(policy: CookieHash, make_cookie_value: MakeCookieValue) -> Hash:
    def hash_cookie(head: RequestHead) -> HashKey | None:
        value = head.cookie(policy.name)
        if value:
            return HashKey(hash_text(value))
        if policy.ttl_seconds is None:
            return None
        made = make_cookie_value()
        return HashKey(hash_text(made), set_cookie_line(policy, made))

    return hash_cookie


def set_cookie_line(policy: CookieHash, value: str) -> str:
    """The value of a Set-Cookie header (Envoy: Utility::makeSetCookieValue)."""
    line = f'{policy.name}="{value}"'
    if policy.ttl_seconds:
        line += f"; Max-Age={policy.ttl_seconds}"
    if policy.path:
        line += f"; Path={policy.path}"
    for name, attribute in policy.attributes:
        line += f"; {name}={attribute}" if attribute else f"; {name}"
    return line + "; HttpOnly"
