"""One provider of JSON web tokens: where its tokens are looked for, what is checked of them, and what they tell."""

from __future__ import annotations

import base64
import json
import urllib.parse
from collections.abc import Generator, Iterator
from operator import itemgetter
from typing import Any

import re2
from msgspec import Struct

from ...resources.filters.jwt import JwtHeader, JwtProvider
from ...routing.string_match import compile_string
from ..request import InboundRequest
from ..waits import Wait
from .jwks import KeyStore
from .token import UNKNOWN_ISSUER, VERIFICATION_FAILS, BadTokenError, Token

__all__ = ["Checked", "FoundToken", "Provider"]

_DEFAULT_HEADERS = (JwtHeader("authorization", "Bearer "),)
_DEFAULT_PARAMS = ("access_token",)
_TOKEN_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.")
# Escapes of unreserved characters: letters, digits, -._~ (RFC 3986 section 2.3).
_ESCAPE = re2.compile(r"(?i)%(?:2[de]|3[0-9]|4[1-9a-f]|5[0-9af]|6[1-9a-f]|7[0-9ae])")
_FILTER = "envoy.filters.http.jwt_authn"

# What a check comes to: None, or the error that it ended with.
Checked = Generator[Wait, Any, BadTokenError | None]


class FoundToken(Struct, frozen=True):
    """A token's text and where it was.

    Attributes:
        place: Kind and name of the place, in the order in which Envoy looks: headers, parameters, cookies; and which of
            several values there.
    """

    text: str
    place: tuple[int, str, int]
    header: str = ""
    param: str = ""


class Provider:
    """A provider, ready to check tokens."""

    def __init__(self, config: JwtProvider, keys: KeyStore) -> None:
        self.config = config
        self.keys = keys
        has_own = bool(config.headers or config.params or config.cookies)
        self._headers = config.headers if has_own else _DEFAULT_HEADERS
        self._params = config.params if has_own else _DEFAULT_PARAMS
        self._places = {
            *((0, header.name + header.prefix) for header in self._headers),
            *((1, param) for param in self._params),
            *((2, cookie) for cookie in config.cookies),
        }
        self._subject = compile_string(config.subjects) if config.subjects is not None else None

    def tokens(self, request: InboundRequest) -> Iterator[FoundToken]:
        """The tokens of a request that are where this provider's tokens are."""
        head = request.head
        for header in self._headers:
            for number, value in enumerate(head.values(header.name)):
                if header.prefix:
                    _, found, after = value.partition(header.prefix)
                    if not found:
                        continue
                    value = _token_in(after)
                yield FoundToken(value, (0, header.name + header.prefix, number), header=header.name)
        if "?" in head.target:
            for param in self._params:
                said = _query_parameter(head.query, param)
                if said is not None:
                    yield FoundToken(said, (1, param, 0), param=param)
        for cookie in self.config.cookies:
            said = head.find_cookie(cookie)
            if said is not None:
                yield FoundToken(said, (2, cookie, 0))

    def looks_in(self, place: tuple[int, str, int]) -> bool:
        """Whether this provider's tokens may be there."""
        return place[:2] in self._places

    def sanitize(self, request: InboundRequest) -> None:
        """Headers that only this provider may set are taken from a request before it is checked."""
        config = self.config
        for name in (config.forward_payload_header, *(name for name, _ in config.claim_to_headers)):
            if name:
                request.remove_header(name.encode("latin-1"))

    def check(self, token: Token, audiences: frozenset[str], now: float) -> Checked:
        """Everything about a token but where it was."""
        config = self.config
        try:
            if config.issuer and token.issuer != config.issuer:
                raise BadTokenError(UNKNOWN_ISSUER)
            token.check_times(now, config.clock_skew_seconds)
            wanted = audiences or config.audiences
            if wanted and not any(_same_audience(one) in _trimmed(wanted) for one in token.audiences):
                raise BadTokenError("Audiences in Jwt are not allowed", status=403)
            if self._subject is not None and not self._subject(str(token.claims.get("sub", ""))):
                raise BadTokenError(VERIFICATION_FAILS)
            self._check_lifetime(token, now)
            yield from self.keys.verify(token, now)
        except BadTokenError as error:
            return error
        return None

    def _check_lifetime(self, token: Token, now: float) -> None:
        """JwtProvider.max_lifetime bounds what is left of a token's life, as Envoy reads it."""
        config, ends = self.config, token.claims.get("exp")
        if ends is None:
            if config.require_expiration or config.max_lifetime_seconds is not None:
                raise BadTokenError(VERIFICATION_FAILS)
            return
        longest = config.max_lifetime_seconds
        if longest is not None and ends - now > longest:
            raise BadTokenError(VERIFICATION_FAILS)

    def accept(self, request: InboundRequest, token: Token, found: FoundToken) -> None:
        """Tell later filters and the application what a good token says."""
        config = self.config
        if not config.forward:
            if found.header:
                request.remove_header(found.header.encode("latin-1"))
            elif found.param:
                request.with_target(_without_parameter(request.head.target, found.param))
        if config.forward_payload_header:
            payload = token.payload_text.rstrip("=")
            if config.pad_payload:
                payload += "=" * (-len(payload) % 4)
            request.set_header(config.forward_payload_header.encode("latin-1"), payload.encode())
        for name, claim in config.claim_to_headers:
            text = _claim_text(token.claims, claim)
            if text is not None:
                request.set_header(name.encode("latin-1"), text.encode("utf-8", "replace"))
        told = request.metadata.setdefault(_FILTER, {})
        if config.payload_in_metadata:
            told[config.payload_in_metadata] = _normalized(token.claims, config.space_delimited_claims)
        if config.header_in_metadata:
            told[config.header_in_metadata] = dict(token.header)


def _trimmed(audiences: frozenset[str]) -> frozenset[str]:
    return frozenset(map(_same_audience, audiences))


def _same_audience(audience: str) -> str:
    """Audiences are compared without scheme and trailing slash (google/jwt_verify_lib, check_audience.cc)."""
    for scheme in ("http://", "https://"):
        audience = audience.removeprefix(scheme)
    return audience.removesuffix("/")


def _token_in(text: str) -> str:
    """All from the first character on that a token may have.

    What follows a token belongs to it, and makes it none: the application might take the part that was not looked at.
    """
    start = next((index for index, one in enumerate(text) if one in _TOKEN_CHARACTERS), None)
    return text if start is None else text[start:]


def _query_parameter(query: str, name: str) -> str | None:
    for part in query.split("&"):
        key, _, value = part.partition("=")
        if urllib.parse.unquote(key) == name:
            return urllib.parse.unquote(value)
    return None


def _without_parameter(target: str, name: str) -> str:
    """A target without a parameter; the others are sorted by name, and each gets its `=`.

    Escapes of characters that need none are resolved (RFC 3986 section 6.2.2.2). Envoy resolves all of them, and writes
    none anew: `%26` would begin another parameter, and `%0d%0a` another header.

    Source: Envoy, source/extensions/filters/http/jwt_authn/extractor.cc (JwtParamLocation::removeJwt) and
    QueryParamsMulti::toString.
    """
    path, _, query = target.partition("?")
    kept = []
    for part in query.removesuffix("&").split("&"):
        key, _, value = part.partition("=")
        plain = urllib.parse.unquote(key)
        if plain != name:
            kept.append((plain, f"{_normalized_escapes(key)}={_normalized_escapes(value)}"))
    kept.sort(key=itemgetter(0))
    return f"{path}?{'&'.join(text for _, text in kept)}" if kept else path


def _normalized_escapes(text: str) -> str:
    return _ESCAPE.sub(lambda one: urllib.parse.unquote(one[0]), text) if "%" in text else text


def _claim_text(claims: Any, path: str) -> str | None:
    """A claim as a header's value; names that nest are joined by dots."""
    value = claims
    for name in path.split("."):
        if not isinstance(value, dict) or name not in value:
            return None
        value = value[name]
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else str(value)
    if isinstance(value, dict | list):
        return base64.b64encode(json.dumps(value, separators=(",", ":")).encode()).decode()
    return None


def _normalized(claims: Any, space_delimited: frozenset[str]) -> dict[str, object]:
    told = dict(claims)
    for name in space_delimited:
        if isinstance(told.get(name), str):
            told[name] = told[name].split()
    return told
