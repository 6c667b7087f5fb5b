"""Tokens of two issuers, good ones and bad ones of every kind, and the issuers' keys."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import jwt
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

__all__ = ["ISSUERS", "TOKENS", "signed", "signed_text"]

_RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
_OTHER_RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
_EC = ec.generate_private_key(ec.SECP256R1())
_ED = ed25519.Ed25519PrivateKey.generate()
_NOW = int(time.time())


def _public(algorithm: Any, key: Any, **fields: str) -> dict[str, Any]:
    return {**json.loads(algorithm.to_jwk(key.public_key())), **fields}


ISSUERS: dict[str, dict[str, Any]] = {
    "one": {"keys": [_public(RSAAlgorithm, _RSA, kid="k1", alg="RS256"), _public(OKPAlgorithm, _ED, kid="k3")]},
    "cookies": {"keys": [_public(RSAAlgorithm, _RSA)]},
    "two": {"keys": [_public(ECAlgorithm, _EC, kid="k2"), _public(RSAAlgorithm, _RSA, kid="k4")]},
}


def signed(claims: dict[str, Any], key: Any = _RSA, algorithm: str = "RS256", kid: str | None = "k1") -> str:
    """A token."""
    headers = {} if kid is None else {"kid": kid}
    return jwt.encode(claims, key, algorithm=algorithm, headers=headers)


def _part(value: Any) -> str:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def _by_hand(header: Any, claims: Any, signature: bytes = b"x") -> str:
    return f"{_part(header)}.{_part(claims)}.{_part(signature)}"


def signed_text(payload: bytes, header: bytes = b'{"alg": "RS256", "kid": "k1"}') -> str:
    """A token of issuer one whose parts are these, whatever they are; its signature is good."""
    signed_part = f"{_part(header)}.{_part(payload)}"
    return f"{signed_part}.{_part(_RSA.sign(signed_part.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


_ONE = {"iss": "one", "sub": "s1", "aud": "a1", "exp": _NOW + 86400, "flag": True}
_TWO = {"iss": "two", "sub": "s2", "aud": ["b1", "b2"], "exp": _NOW + 86400, "nest": {"n": 7}}
_PEM = _RSA.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)

TOKENS: dict[str, str] = {
    "one": signed(_ONE),
    "one again": signed({**_ONE, "sub": "s2"}),
    "one audience": signed({**_ONE, "aud": ["x", "a2"]}),
    "one EdDSA": signed(_ONE, _ED, "EdDSA", "k3"),
    "one without kid": signed(_ONE, kid=None),
    "cookies": signed({**_ONE, "iss": "cookies"}),
    "two": signed(_TWO, _EC, "ES256", "k2"),
    "two RSA": signed(_TWO, _RSA, "PS256", "k4"),
    "two for nobody": signed({**_TWO, "aud": "x"}, _EC, "ES256", "k2"),
    "expired": signed({**_ONE, "exp": _NOW - 86400}),
    "within the skew": signed({**_ONE, "exp": _NOW - 600}),
    "not yet": signed({**_ONE, "nbf": _NOW + 86400}),
    "wrong audience": signed({**_ONE, "aud": "x"}),
    "no audience": signed({"iss": "one", "exp": _NOW + 86400}),
    "unknown issuer": signed({**_ONE, "iss": "three"}),
    "other key": signed(_ONE, _OTHER_RSA),
    "unknown kid": signed(_ONE, kid="k9"),
    "wrong algorithm": signed(_ONE, _RSA, "RS512"),
    "tampered": signed(_ONE)[:-6] + "AAAAAA",
    "none": _by_hand({"alg": "none"}, _ONE, b""),
    "hmac with the public key": _by_hand({"alg": "HS256", "kid": "k1"}, _ONE),
    "number as alg": _by_hand({"alg": 5}, _ONE),
    "number as kid": _by_hand({"alg": "RS256", "kid": 5}, _ONE),
    "kid injection": _by_hand({"alg": "RS256", "kid": "../../dev/null"}, _ONE),
    "issuer is a number": _by_hand({"alg": "RS256"}, {"iss": 5}),
    "expiry without end": _by_hand({"alg": "RS256"}, {"iss": "one", "exp": 2**64}),
    "start below zero": _by_hand({"alg": "RS256"}, {"iss": "one", "nbf": -1}),
    "expiry is a text": _by_hand({"alg": "RS256"}, {"iss": "one", "exp": "soon"}),
    "audience is a number": _by_hand({"alg": "RS256"}, {"iss": "one", "aud": 5}),
    "header is no JSON": _by_hand(b"{", _ONE),
    "payload is no JSON": _by_hand({"alg": "RS256"}, b"["),
    "payload is a list": _by_hand({"alg": "RS256"}, []),
    "two parts": "a.b",
    "four parts": "a.b.c.d",
    "no base64": "!!.!!.!!",
    "empty": "",
}
