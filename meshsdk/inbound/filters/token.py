"""One JSON web token: taken apart, and its signature checked.

What is wrong with a token is said in Envoy's words (google/jwt_verify_lib, status.cc). The signature is checked by
PyJWT's algorithms, with a key that its set says is for that algorithm: a token never chooses how its key is used.

Sources: RFC 7515, 7517, 7519, 8725; google/jwt_verify_lib jwt.cc and verify.cc.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping
from typing import Any

import jwt as pyjwt
import re2
from jwt.algorithms import get_default_algorithms
from msgspec import Struct

__all__ = ["BadTokenError", "KeySet", "Token", "parse_keys", "parse_token"]

# Beyond this is an attack or an error; Envoy's own limit on all headers is 60 KiB.
_MAX_TOKEN_BYTES = 64 * 1024
_MAX_KEYS = 256
# Envoy reads times as unsigned integers of 64 bits.
_END_OF_TIME = 2**64

# Envoy's list; "none" is not on it.
_ALGORITHMS = {
    name: algorithm
    for name, algorithm in get_default_algorithms().items()
    if name in "HS256 HS384 HS512 RS256 RS384 RS512 PS256 PS384 PS512 ES256 ES384 ES512 EdDSA".split()
}
_KEY_TYPES = {"HS": "oct", "RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}
_CURVES = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}


class BadTokenError(Exception):
    """A token, or the keys it is checked with, are not good. The message is Envoy's.

    Attributes:
        status: 401, or 403 for a good token that is for somebody else.
    """

    def __init__(self, message: str, status: int = 401) -> None:
        super().__init__(message)
        self.status = status


MISSING = "Jwt is missing"
UNKNOWN_ISSUER = "Jwt issuer is not configured"
VERIFICATION_FAILS = "Jwt verification fails"
FETCH_FAILED = "Jwks remote fetch is failed"


class Token(Struct, frozen=True):
    """A token taken apart; nothing about it is believed yet.

    Attributes:
        text: As it came.
        payload_text: Its payload, still base64url.
        signed: What the signature is over.
    """

    text: str
    header: Mapping[str, Any]
    claims: Mapping[str, Any]
    payload_text: str
    signed: bytes
    signature: bytes

    @property
    def issuer(self) -> str:
        """Its `iss`; empty where it has none."""
        return str(self.claims.get("iss", ""))

    @property
    def audiences(self) -> list[str]:
        """Its `aud`, which may be one or several."""
        found = self.claims.get("aud", [])
        return [found] if isinstance(found, str) else list(found)

    def check_times(self, now: float, skew_seconds: float) -> None:
        """Refuse a token before its time or after it.

        Envoy compares whole seconds: the second in which the skew ends is still within it.

        Raises:
            BadTokenError: It is one.
        """
        starts, ends, second = int(self.claims.get("nbf", 0)), int(self.claims.get("exp", 0)), int(now)
        if starts and second + skew_seconds < starts:
            raise BadTokenError("Jwt not yet valid")
        if ends and second > ends + skew_seconds:
            raise BadTokenError("Jwt is expired")


def parse_token(text: str) -> Token:
    """Take a token apart.

    Raises:
        BadTokenError: It is none.
    """
    parts = text.split(".")
    if len(parts) != 3 or not all(parts) or not text.isascii() or len(text) > _MAX_TOKEN_BYTES:
        raise BadTokenError("Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections")
    header = _section(parts[0], "header")
    algorithm = header.get("alg")
    if not isinstance(algorithm, str):
        raise BadTokenError("Jwt header [alg] field is required and must be a string")
    if algorithm not in _ALGORITHMS:
        raise BadTokenError("Jwt header [alg] is not supported")
    if not isinstance(header.get("kid", ""), str):
        raise BadTokenError("Jwt header [kid] field is not a string")
    claims = _section(parts[1], "payload")
    _check_claims(claims)
    signature = _decoded(parts[2])
    if signature is None:
        raise BadTokenError("Jwt signature is an invalid Base64url encoded")
    return Token(text, header, claims, parts[1], f"{parts[0]}.{parts[1]}".encode(), signature)


def _section(text: str, name: str) -> dict[str, Any]:
    content = _decoded(text)
    if content is None:
        raise BadTokenError(f"Jwt {name} is an invalid Base64url encoded")
    value = _json_object(content)
    if value is None:
        raise BadTokenError(f"Jwt {name} is an invalid JSON")
    return value


def _json_object(content: bytes) -> dict[str, Any] | None:
    """An object that everybody reads alike; None where the text is none.

    Of a name that stands twice one reader takes the first value and another the last; and what is nested deeper than
    protobuf reads (Envoy's reader, 100) is not for readers that call themselves.
    """
    try:
        text = content.decode()
        if not _is_shallow(text):
            return None
        value = json.loads(
            text, parse_constant=_no_number, parse_float=_finite, parse_int=_whole, object_pairs_hook=_once
        )
        if "\\u" in text:
            # Half a pair of surrogates is no text.
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


_MAX_DEPTH = 100
_STRING = re2.compile(r'"(?:[^"\\]|\\.)*"')


def _is_shallow(text: str) -> bool:
    if text.count("[") + text.count("{") <= _MAX_DEPTH:
        return True
    depth = 0
    for one in _STRING.sub("", text):
        if one in "[{":
            depth += 1
            if depth > _MAX_DEPTH:
                return False
        elif one in "]}":
            depth -= 1
    return True


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a name stands twice")
    return value


def _no_number(text: str) -> None:
    # NaN is no JSON, and a time that is none is never over.
    raise ValueError(f"{text} is no JSON")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text} is too large")
    return value


def _whole(text: str) -> int:
    # Numbers of JSON are doubles to Envoy, and none is so large.
    _finite(text)
    return int(text)


def _decoded(text: str) -> bytes | None:
    """Base64url without padding; None where it is not that."""
    if len(text) % 4 == 1 or "=" in text or "+" in text or "/" in text:
        return None
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None


def _check_claims(claims: Mapping[str, Any]) -> None:
    for name in ("iss", "sub"):
        if not isinstance(claims.get(name, ""), str):
            raise BadTokenError(f"Jwt payload [{name}] field is not a string")
    for name in ("iat", "nbf", "exp"):
        value = claims.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise BadTokenError(f"Jwt payload [{name}] field is not an integer")
        if not 0 <= value < _END_OF_TIME:
            raise BadTokenError(f"Jwt payload [{name}] field is not a positive 64 bit integer")
    if not isinstance(claims.get("jti", ""), str):
        raise BadTokenError("Jwt payload [jti] field is not a string")
    audience = claims.get("aud", "")
    if isinstance(audience, str):
        return
    if not isinstance(audience, list) or not all(isinstance(one, str) for one in audience):
        raise BadTokenError("Jwt payload [aud] field is not a string or string list")


class _Key(Struct, frozen=True):
    kid: str
    algorithm: str
    kind: str
    curve: str
    key: Any


class KeySet:
    """The keys of an issuer (RFC 7517).

    Args:
        keys: In order.
    """

    def __init__(self, keys: list[_Key]) -> None:
        self._keys = keys

    def verify(self, token: Token) -> None:
        """Refuse a token that none of the keys has signed.

        Raises:
            BadTokenError: It is one.
        """
        algorithm, kid = token.header["alg"], token.header.get("kid", "")
        is_candidate = False
        for key in self._keys:
            if (kid and key.kid and key.kid != kid) or (key.algorithm and key.algorithm != algorithm):
                continue
            is_candidate = True
            # A key is used for its own kind of algorithm and for no other (RFC 8725, section 3.1): an RSA key is
            # never the secret of an HMAC.
            if key.kind != _KEY_TYPES[algorithm[:2]] or key.curve != _CURVES.get(algorithm, key.curve):
                continue
            if _ALGORITHMS[algorithm].verify(token.signed, key.key, token.signature):
                return
        raise BadTokenError(
            VERIFICATION_FAILS if is_candidate else "Jwks doesn't have key to match kid or alg from Jwt"
        )


def parse_keys(text: str) -> KeySet:
    """A JSON web key set. Keys that are not understood are left out.

    Raises:
        BadTokenError: There is no set, or no key in it that can be used.
    """
    document = _json_object(text.encode(errors="surrogatepass"))
    if document is None:
        raise BadTokenError("Jwks is an invalid JSON")
    entries = document.get("keys")
    if entries is None:
        raise BadTokenError("Jwks does not have [keys] field")
    if not isinstance(entries, list):
        raise BadTokenError("[keys] in Jwks is not a list")
    keys = [key for entry in entries[:_MAX_KEYS] if (key := _parse_key(entry)) is not None]
    if not keys:
        raise BadTokenError("Jwks doesn't have any valid public key")
    return KeySet(keys)


def _parse_key(entry: Any) -> _Key | None:
    if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
        return None
    kid, algorithm, kind = entry.get("kid", ""), entry.get("alg", ""), entry.get("kty", "")
    if not isinstance(kid, str) or not isinstance(algorithm, str) or kind not in _KEY_TYPES.values():
        return None
    try:
        name = algorithm or {"oct": "HS256", "RSA": "RS256", "EC": "ES256", "OKP": "EdDSA"}[kind]
        key = _ALGORITHMS[name].from_jwk(entry)
    except (KeyError, ValueError, TypeError, pyjwt.PyJWTError):
        return None
    if hasattr(key, "private_numbers") or hasattr(key, "private_bytes"):
        key = key.public_key()
    curve = entry.get("crv", "") if kind == "EC" else ""
    return _Key(kid, algorithm, kind, curve, key)
