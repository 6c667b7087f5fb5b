"""The filters cors and csrf.

Sources: Envoy docs, http_filters/{cors_filter,csrf_filter}; source/extensions/filters/http/cors/cors_filter.cc and
csrf/csrf_filter.cc.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import re2

from ...exchange.local_reply import LocalReply
from ...resources.filters.browser import CorsPolicy, Csrf
from ...resources.filters.settings import FilterSetting
from ...routing.string_match import compile_header_string
from ..replies import cors_preflight, csrf_denied
from ..request import Headers, InboundRequest
from .compiling import Place, Said, Step, of_route

__all__ = ["CorsStep", "CsrfStep", "compile_cors", "compile_csrf", "is_preflight"]

_SCHEME = re2.compile("[A-Za-z][A-Za-z0-9+.-]*")

RandomFraction = Callable[[], float]

_CHANGING_METHODS = frozenset({"POST", "PUT", "DELETE", "PATCH"})


def is_preflight(request: InboundRequest) -> bool:
    """Whether a browser asks beforehand what it may do."""
    head = request.head
    return (
        head.method == "OPTIONS" and bool(head.header("origin")) and bool(head.header("access-control-request-method"))
    )


class CorsStep:
    """Cross-origin resource sharing of one route."""

    __slots__ = (
        "_origins",
        "_place",
        "_policy",
        "_preflight_headers",
        "_random",
        "_response_headers",
    )

    def __init__(self, policy: CorsPolicy, place: int, random_fraction: RandomFraction) -> None:
        self._place = place
        self._policy = policy
        self._random = random_fraction
        self._origins = [compile_header_string(origin) for origin in policy.origins]
        credentials = (b"access-control-allow-credentials", b"true")
        preflight = [
            (b"access-control-allow-methods", policy.allow_methods.encode("latin-1")),
            (b"access-control-allow-headers", policy.allow_headers.encode("latin-1")),
            (b"access-control-max-age", policy.max_age.encode("latin-1")),
        ]
        response = [(b"access-control-expose-headers", policy.expose_headers.encode("latin-1"))]
        shared = [credentials] if policy.allow_credentials else []
        self._preflight_headers = tuple(shared + [header for header in preflight if header[1]])
        self._response_headers = tuple(shared + [header for header in response if header[1]])

    def __call__(self, request: InboundRequest) -> LocalReply | None:
        """Answer a preflight; have the answers to others say what they must."""
        if self._random() >= self._policy.enabled.share:
            return None
        origins = request.head.values("origin")
        if not origins or not origins[0]:
            return None
        origin, allowed = origins[0].encode("latin-1"), self._allows(origins[0])
        if is_preflight(request):
            if not allowed and self._policy.forward_not_matching_preflights is not False:
                return None
            # Envoy: a preflight of another origin is told everything but that it may.
            headers = self._preflight_headers
            if allowed:
                self._expect(request, origin)
                headers = ((b"access-control-allow-origin", origin), *headers)
                asked = request.head.header("access-control-request-private-network")
                if self._policy.allow_private_network and asked == "true":
                    headers += ((b"access-control-allow-private-network", b"true"),)
            return cors_preflight(headers)
        if allowed:
            self._expect(request, origin)
        return None

    def _expect(self, request: InboundRequest, origin: bytes) -> None:
        own = ((b"access-control-allow-origin", origin), *self._response_headers)
        request.response_changes.append((self._place, lambda headers, status: _replaced(headers, own)))

    def _allows(self, origin: str) -> bool:
        return any(matches(origin) for matches in self._origins)


def _replaced(headers: Headers, own: tuple[tuple[bytes, bytes], ...]) -> Headers:
    names = {name for name, _ in own}
    return [header for header in headers if header[0].lower() not in names] + list(own)


class CsrfStep:
    """Requests that change something must come from where they go to."""

    __slots__ = ("_origins", "_random", "_share")

    def __init__(self, settings: Csrf, random_fraction: RandomFraction) -> None:
        self._origins = [compile_header_string(origin) for origin in settings.origins]
        self._share = settings.enabled.share
        self._random = random_fraction

    def __call__(self, request: InboundRequest) -> LocalReply | None:
        """Refuse a request of another origin."""
        head = request.head
        if head.method not in _CHANGING_METHODS or self._random() >= self._share:
            return None
        source = _source(request)
        if source and (source == head.authority or any(matches(source) for matches in self._origins)):
            return None
        return csrf_denied()


def _source(request: InboundRequest) -> str:
    """Host and port of the page that sent the request; what is no URL, such as an Origin of null, as it is."""
    origin = request.head.first_header("origin") or request.head.first_header("referer") or ""
    scheme, separator, rest = origin.partition("://")
    if not separator or _SCHEME.fullmatch(scheme) is None:
        return origin
    for end in "/?#":
        rest = rest.partition(end)[0]
    return rest


def compile_cors(own: FilterSetting, said: Said, place: Place) -> Step | None:
    """The filter cors for one route: nothing without a route's policy, or where the route answers by itself."""
    cors = of_route(said, CorsPolicy)
    if cors is None or not place.has_application:
        return None
    for below in said[1:]:
        if isinstance(below, CorsPolicy):
            cors = cors.over(below)
    return CorsStep(cors, place.number, random.random)


def compile_csrf(own: FilterSetting, said: Said, place: Place) -> Step | None:
    """The filter csrf for one route."""
    csrf = of_route(said, Csrf) or own
    return CsrfStep(csrf, random.random) if isinstance(csrf, Csrf) else None
