"""Keys of an issuer in a file: read again when it has changed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from meshsdk.inbound.filters.jwks import KeyStore
from meshsdk.inbound.filters.token import BadTokenError, parse_token
from meshsdk.resources.filters.jwt import LocalJwks
from tests.differential.tokens import signed

OLD, NEW = (rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(2))


def key_set(*keys: Any) -> str:
    return json.dumps(
        {"keys": [{**json.loads(RSAAlgorithm.to_jwk(one.public_key())), "kid": "k1", "alg": "RS256"} for one in keys]}
    )


def is_good(store: KeyStore, key: Any, now: float) -> bool:
    try:
        list(store.verify(parse_token(signed({"iss": "one"}, key)), now))
    except BadTokenError:
        return False
    return True


def test_keys_of_a_file_are_read_again_and_a_broken_change_keeps_the_last_good_ones(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text(key_set(OLD))
    provider: Any = SimpleNamespace(jwks=LocalJwks(path=str(path)))
    store = KeyStore(provider)
    now = store.now()
    assert is_good(store, OLD, now)
    path.write_text("{")
    assert is_good(store, OLD, now + 10)
    path.unlink()
    assert is_good(store, OLD, now + 20)
    path.write_text(key_set(NEW))
    # Also for a token that was known to be good.
    assert not is_good(store, OLD, now + 30)
    assert is_good(store, NEW, now + 30)


def test_each_time_that_a_file_of_keys_breaks_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "keys.json"
    path.write_text(key_set(OLD))
    provider: Any = SimpleNamespace(jwks=LocalJwks(path=str(path)))
    store = KeyStore(provider)
    now = store.now()
    for turn, text in enumerate(["{", key_set(OLD), "{", "{ "]):
        path.write_text(text)
        os.utime(path, (turn, turn))
        assert is_good(store, OLD, now + 10 * (turn + 1))
    assert len(caplog.records) == 2


@pytest.mark.parametrize("text", ["{", ""])
def test_a_file_of_keys_that_comes_to_be_good_is_taken(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text(text)
    provider: Any = SimpleNamespace(jwks=LocalJwks(path=str(path)))
    store = KeyStore(provider)
    now = store.now()
    assert not is_good(store, OLD, now)
    path.write_text(key_set(OLD))
    assert is_good(store, OLD, now + 10)


def test_what_an_old_key_verifies_while_new_ones_come_is_not_good_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "keys.json"
    path.write_text(key_set(OLD))
    provider: Any = SimpleNamespace(jwks=LocalJwks(path=str(path)))
    store = KeyStore(provider)
    now = store.now()
    assert is_good(store, NEW, now) is False
    old_keys = store._keys
    assert old_keys is not None
    verify = old_keys.verify

    def others_come_meanwhile(token: Any) -> None:
        verify(token)
        path.write_text(key_set(NEW))
        assert is_good(store, NEW, now + 10)

    monkeypatch.setattr(old_keys, "verify", others_come_meanwhile)
    assert is_good(store, OLD, now)
    assert not is_good(store, OLD, now + 20)
