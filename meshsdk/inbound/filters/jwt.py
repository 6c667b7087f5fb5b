"""JSON web tokens of requests, checked: the filter jwt_authn.

Theory of operation. A requirement is a tree whose leaves are providers. A leaf looks for tokens where its provider has
them, and checks each: form, issuer, times, audience, signature. Keys that are not here yet are waited for
(`FetchKeys`); everything else is decided at once. A request that its requirement lets pass has what its tokens say
told to later filters and, where that is configured, to the application.

Sources: Envoy docs, http_filters/jwt_authn_filter; source/extensions/filters/http/jwt_authn/{authenticator,verifier,
extractor,filter}.cc.
"""

from __future__ import annotations

import base64
import json
import urllib.parse
from collections.abc import Generator, Iterator
from functools import partial
from operator import itemgetter
from typing import Any

import re2
from msgspec import Struct

from ...exchange.local_reply import LocalReply
from ...resources import RouteMatch
from ...resources.filters.jwt import (
    AllowMissing,
    AllowMissingOrFailed,
    AllRequired,
    AnyRequired,
    JwtAuthentication,
    JwtHeader,
    JwtPerRoute,
    JwtProvider,
    JwtRequirement,
    ProviderRequired,
)
from ...resources.filters.settings import FilterSetting
from ...routing.conditions import compile_conditions, compile_path, no_chance
from ...routing.string_match import compile_string
from ..replies import jwt_denied
from ..request import InboundRequest
from ..waits import Wait
from .browser import is_preflight
from .compiling import Place, Said, Step, of_route
from .jwks import KeyStore
from .token import MISSING, UNKNOWN_ISSUER, VERIFICATION_FAILS, BadTokenError, Token, parse_token

__all__ = ["JwtStep", "compile_filter"]

_DEFAULT_HEADERS = (JwtHeader("authorization", "Bearer "),)
_DEFAULT_PARAMS = ("access_token",)
_TOKEN_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.")
# Escapes of unreserved characters: letters, digits, -._~ (RFC 3986 section 2.3).
_ESCAPE = re2.compile(r"(?i)%(?:2[de]|3[0-9]|4[1-9a-f]|5[0-9af]|6[1-9a-f]|7[0-9ae])")
# Envoy: of the path, the realm of a challenge has so much.
_MAX_REALM_PATH = 256
# Tokens of one request that are looked at; a client that sends more tries something.
_MAX_TOKENS = 16
_FILTER = "envoy.filters.http.jwt_authn"

# What a check comes to: None, or the error that it ended with.
Checked = Generator[Wait, Any, BadTokenError | None]


class _Found(Struct, frozen=True):
    """A token's text and where it was.

    Attributes:
        place: Kind and name of the place, in the order in which Envoy looks: headers, parameters, cookies; and which of
            several values there.
    """

    text: str
    place: tuple[int, str, int]
    header: str = ""
    param: str = ""


class _Provider:
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

    def tokens(self, request: InboundRequest) -> Iterator[_Found]:
        """The tokens of a request that are where this provider's tokens are."""
        head = request.head
        for header in self._headers:
            for number, value in enumerate(head.values(header.name)):
                if header.prefix:
                    _, found, after = value.partition(header.prefix)
                    if not found:
                        continue
                    value = _token_in(after)
                yield _Found(value, (0, header.name + header.prefix, number), header=header.name)
        if "?" in head.target:
            for param in self._params:
                said = _query_parameter(head.query, param)
                if said is not None:
                    yield _Found(said, (1, param, 0), param=param)
        for cookie in self.config.cookies:
            said = head.find_cookie(cookie)
            if said is not None:
                yield _Found(said, (2, cookie, 0))

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

    def accept(self, request: InboundRequest, token: Token, found: _Found) -> None:
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
    if isinstance(value, int | float):
        return str(int(value)) if float(value).is_integer() else str(value)
    if isinstance(value, dict | list):
        return base64.b64encode(json.dumps(value, separators=(",", ":")).encode()).decode()
    return None


def _normalized(claims: Any, space_delimited: frozenset[str]) -> dict[str, object]:
    told = dict(claims)
    for name in space_delimited:
        if isinstance(told.get(name), str):
            told[name] = told[name].split()
    return told


class _Leaf:
    """Good tokens of one provider, or of whichever issued them.

    Args:
        providers: One, or all.
        audiences: In place of the provider's own, where there are any.
        allow_missing: No token is as good as a good one.
        allow_failed: So is a bad one.
        goes_on: After a bad token the next one is looked at, and what is said of the last counts.
    """

    def __init__(
        self,
        providers: list[_Provider],
        audiences: frozenset[str] = frozenset(),
        *,
        allow_missing: bool = False,
        allow_failed: bool = False,
        goes_on: bool = False,
    ) -> None:
        self._providers = providers
        self._audiences = audiences
        self._allow_missing = allow_missing
        self._allow_failed = allow_failed
        self._goes_on = goes_on

    def check(self, request: InboundRequest, now: float) -> Checked:
        """Check the tokens from the last place to the first, as Envoy does.

        All must be good.
        """
        found = {one.place: one for provider in self._providers for one in provider.tokens(request)}
        if not found:
            return None if self._allow_missing or self._allow_failed else BadTokenError(MISSING)
        if len(found) > _MAX_TOKENS:
            return BadTokenError("Found multiple Jwt tokens")
        error: BadTokenError | None = None
        for place in sorted(found, reverse=True):
            error = yield from self._check_one(request, found[place], now)
            if error is not None and not self._goes_on:
                return error
        return None if self._allow_failed else error

    def _check_one(self, request: InboundRequest, found: _Found, now: float) -> Checked:
        """One token; a good one is accepted."""
        try:
            token = parse_token(found.text)
        except BadTokenError as error:
            return error
        last: BadTokenError | None = BadTokenError(UNKNOWN_ISSUER)
        for provider in self._providers:
            issuer = provider.config.issuer
            if issuer and issuer != token.issuer:
                continue
            if not provider.looks_in(found.place):
                continue
            last = yield from provider.check(token, self._audiences, now)
            if last is None:
                provider.accept(request, token, found)
                return None
        return last


# How much an error says: that there is no token, or another issuer's, says less than what is wrong with one.
_LITTLE = {MISSING: 0, UNKNOWN_ISSUER: 1}


class _AnyOf:
    def __init__(self, inner: list[_Requirement]) -> None:
        self._inner = inner

    def check(self, request: InboundRequest, now: float) -> Checked:
        """The first that is met; else the error that says most."""
        said = BadTokenError(MISSING)
        for one in self._inner:
            error = yield from one.check(request, now)
            if error is None:
                return None
            if _LITTLE.get(str(error), 2) >= _LITTLE.get(str(said), 2):
                said = error
        return said


class _AllOf:
    def __init__(self, inner: list[_Requirement]) -> None:
        self._inner = inner

    def check(self, request: InboundRequest, now: float) -> Checked:
        """The first that is not met."""
        for one in self._inner:
            error = yield from one.check(request, now)
            if error is not None:
                return error
        return None


_Requirement = _Leaf | _AnyOf | _AllOf


class JwtStep:
    """The filter for one route.

    Args:
        settings: The filter's.
        per_route: The route's, in place of the rules.
        stores: Keys by provider.
    """

    def __init__(self, settings: JwtAuthentication, per_route: JwtPerRoute | None, stores: dict[str, KeyStore]) -> None:
        self._settings = settings
        self._providers = {name: _Provider(provider, stores[name]) for name, provider in settings.providers.items()}
        self._fixed: _Requirement | None = None
        self._is_fixed = per_route is not None
        self._unknown = ""
        if per_route is not None:
            requirement = settings.requirements.get(per_route.requirement)
            if requirement is None:
                self._unknown = per_route.requirement
            else:
                self._fixed = self._compile(requirement)
        self._rules = [
            (
                compile_path(rule.match.path).test,
                # Envoy looks at nothing else of a rule's match (source/extensions/filters/http/jwt_authn/matcher.cc).
                compile_conditions(
                    RouteMatch(rule.match.path, rule.match.headers, query_parameters=rule.match.query_parameters)
                ),
                self._compile(rule.requirement) if rule.requirement is not None else None,
            )
            for rule in settings.rules
        ]

    def _compile(self, requirement: JwtRequirement) -> _Requirement:
        match requirement:
            case ProviderRequired(provider=name, audiences=audiences):
                return _Leaf([self._providers[name]], audiences)
            case AllRequired(requirements=inner):
                return _AllOf([self._compile(one) for one in inner])
            case AnyRequired(requirements=inner):
                # Envoy: what lets anything pass is asked last, wherever it stands.
                late = (AllowMissing, AllowMissingOrFailed)
                ordered = [one for one in inner if not isinstance(one, late)]
                lenient: list[JwtRequirement] = [one for one in inner if isinstance(one, AllowMissingOrFailed)]
                lenient += [one for one in inner if isinstance(one, AllowMissing)]
                named = [self._providers[one.provider] for one in ordered if isinstance(one, ProviderRequired)]
                return _AnyOf(
                    [self._compile(one) for one in ordered]
                    + [self._lenient(one, named, is_alternative=True) for one in lenient[:1]]
                )
            case AllowMissing() | AllowMissingOrFailed():
                return self._lenient(requirement, list(self._providers.values()))

    def _lenient(
        self, requirement: JwtRequirement, providers: list[_Provider], *, is_alternative: bool = False
    ) -> _Leaf:
        """Envoy goes on after a bad token where all may be bad, or where nothing but a missing one will do."""
        failed = isinstance(requirement, AllowMissingOrFailed)
        return _Leaf(
            providers or list(self._providers.values()),
            allow_missing=True,
            allow_failed=failed,
            goes_on=failed or not is_alternative,
        )

    def __call__(self, request: InboundRequest) -> Generator[Wait, Any, LocalReply | None] | LocalReply | None:
        """Let the request pass, or refuse it; where its requirement is known, as a generator of waits."""
        if self._settings.bypass_cors_preflight and is_preflight(request):
            return None
        for provider in self._providers.values():
            provider.sanitize(request)
        if self._unknown:
            known = ",".join(sorted(self._settings.requirements))
            wrong = f"Wrong requirement_name: {self._unknown}. It should be one of [{known}]"
            return jwt_denied(403, f"Failed JWT authentication: {wrong}", "")
        requirement = self._fixed if self._is_fixed else self._required(request)
        return None if requirement is None else self._check(requirement, request)

    def _required(self, request: InboundRequest) -> _Requirement | None:
        head = request.head
        for path, conditions, requirement in self._rules:
            if path(head.path) and all(condition.holds(head, no_chance) for condition in conditions):
                return requirement
        return None

    def _check(self, requirement: _Requirement, request: InboundRequest) -> Generator[Wait, Any, LocalReply | None]:
        head = request.head
        error = yield from requirement.check(request, self._now())
        if error is None:
            return None
        message = str(error)
        if self._settings.strip_failure_response:
            return jwt_denied(error.status, "", "Bearer")
        # Utility::buildOriginalUri: the path before a proxy has changed it.
        path = head.header("x-envoy-original-path")
        path = (head.target if path is None else path)[:_MAX_REALM_PATH]
        challenge = f'Bearer realm="{head.scheme}://{head.authority}{path}"'
        if message != MISSING:
            challenge += ', error="invalid_token"'
        return jwt_denied(error.status, message, challenge)

    def _now(self) -> float:
        return next(iter(self._providers.values())).keys.now() if self._providers else 0.0


def compile_filter(own: FilterSetting, said: Said, place: Place) -> Step | None:
    """The filter for one route. Equal providers share their keys."""
    if not isinstance(own, JwtAuthentication):
        return None
    stores = {
        name: place.states.shared(provider, partial(KeyStore, provider)) for name, provider in own.providers.items()
    }
    return JwtStep(own, of_route(said, JwtPerRoute), stores)
