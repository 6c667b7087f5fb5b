"""When a token begins and ends: to the second, as Envoy counts."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from meshsdk.inbound.filters.token import BadTokenError, parse_token


def _token(**claims: Any) -> str:
    parts = (json.dumps({"alg": "RS256"}), json.dumps(claims), "signature")
    return ".".join(base64.urlsafe_b64encode(part.encode()).rstrip(b"=").decode() for part in parts)


@pytest.mark.parametrize(
    ("claims", "now"),
    [
        ({"exp": 1000}, 1060.9),
        ({"exp": 1000.9}, 1060.9),
        ({"nbf": 1000}, 940.0),
        ({"nbf": 1000.9}, 940.0),
        ({"exp": 0, "nbf": 0}, 5000.0),
        ({}, 5000.0),
    ],
)
def test_a_token_is_good_until_the_second_of_its_end_is_over(claims: dict[str, Any], now: float) -> None:
    parse_token(_token(**claims)).check_times(now, 60)


@pytest.mark.parametrize(
    ("claims", "now", "message"),
    [
        ({"exp": 1000}, 1061.0, "Jwt is expired"),
        ({"exp": 1000.9}, 1061.0, "Jwt is expired"),
        ({"nbf": 1000}, 939.9, "Jwt not yet valid"),
    ],
)
def test_a_token_is_refused_before_its_time_and_after_it(claims: dict[str, Any], now: float, message: str) -> None:
    with pytest.raises(BadTokenError, match=message):
        parse_token(_token(**claims)).check_times(now, 60)


@pytest.mark.parametrize("name", ["iat", "nbf", "exp"])
@pytest.mark.parametrize("value", ["-1", "18446744073709551616", "1e400"])
def test_a_time_beyond_sixty_four_bits_is_none(name: str, value: str) -> None:
    payload = base64.urlsafe_b64encode(f'{{"{name}": {value}}}'.encode()).rstrip(b"=").decode()
    header, _, signature = _token().split(".")
    said = "invalid JSON" if value == "1e400" else rf"\[{name}\] field is not a positive 64 bit integer"
    with pytest.raises(BadTokenError, match=said):
        parse_token(f"{header}.{payload}.{signature}")
