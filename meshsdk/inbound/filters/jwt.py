"""JSON web tokens of requests, checked: the filter jwt_authn.

Theory of operation. A requirement is a tree whose leaves are providers. A leaf looks for tokens where its provider has
them, and checks each: form, issuer, times, audience, signature. Keys that are not here yet are waited for
(`FetchKeys`); everything else is decided at once. A request that its requirement lets pass has what its tokens say
told to later filters and, where that is configured, to the application.

Sources: Envoy docs, http_filters/jwt_authn_filter; source/extensions/filters/http/jwt_authn/{authenticator,verifier,
extractor,filter}.cc.
"""

from __future__ import annotations

from collections.abc import Generator
from functools import partial
from typing import Any

from ...exchange.local_reply import LocalReply
from ...resources import RouteMatch
from ...resources.filters.jwt import (
    AllowMissing,
    AllowMissingOrFailed,
    AllRequired,
    AnyRequired,
    JwtAuthentication,
    JwtPerRoute,
    JwtRequirement,
    ProviderRequired,
)
from ...resources.filters.settings import FilterSetting
from ...routing.conditions import compile_conditions, compile_path, no_chance
from ..replies import jwt_denied
from ..request import InboundRequest
from ..waits import Wait
from .browser import is_preflight
from .compiling import Place, Said, Step, of_route
from .jwks import KeyStore
from .jwt_provider import Checked, FoundToken, Provider
from .token import MISSING, UNKNOWN_ISSUER, BadTokenError, parse_token

__all__ = ["JwtStep", "compile_filter"]

# Envoy: of the path, the realm of a challenge has so much.
_MAX_REALM_PATH = 256
# Tokens of one request that are looked at; a client that sends more tries something.
_MAX_TOKENS = 16


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
        providers: list[Provider],
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

    def _check_one(self, request: InboundRequest, found: FoundToken, now: float) -> Checked:
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
        self._providers = {name: Provider(provider, stores[name]) for name, provider in settings.providers.items()}
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
        self, requirement: JwtRequirement, providers: list[Provider], *, is_alternative: bool = False
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
