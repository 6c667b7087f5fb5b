"""JSON web tokens: who issues them, and which requests need one (envoy.extensions.filters.http.jwt_authn.v3)."""

from __future__ import annotations

from typing import Any, ClassVar

from envoy.extensions.filters.http.jwt_authn.v3 import config_pb2
from msgspec import Struct, field

from ...errors import ResourceError
from ...xdstp import normalised
from ..matching import RouteMatch, StringMatcher, parse_match, parse_string_matcher
from ..notes import Notes
from ..values import optional, seconds, unpack
from .settings import FilterSetting

__all__ = [
    "AllRequired",
    "AllowMissing",
    "AllowMissingOrFailed",
    "AnyRequired",
    "JwtAuthentication",
    "JwtHeader",
    "JwtPerRoute",
    "JwtProvider",
    "JwtRequirement",
    "JwtRule",
    "LocalJwks",
    "ProviderRequired",
    "RemoteJwks",
    "parse_jwt_authentication",
    "parse_jwt_per_route",
]


_FILTER_FIELDS = frozenset(
    "providers rules bypass_cors_preflight requirement_map strip_failure_response stat_prefix".split()
)
_PROVIDER_FIELDS = frozenset(
    "issuer audiences subjects require_expiration max_lifetime remote_jwks local_jwks forward from_headers from_params"
    " from_cookies forward_payload_header pad_forward_payload_header payload_in_metadata header_in_metadata"
    " clock_skew_seconds jwt_cache_config claim_to_headers failed_status_in_metadata normalize_payload_in_metadata"
    " clear_route_cache".split()
)
_REMOTE_FIELDS = frozenset("http_uri cache_duration".split())

# JwtProvider.clock_skew_seconds and RemoteJwks.cache_duration where they are not set.
_CLOCK_SKEW_SECONDS = 60
_CACHE_SECONDS = 600.0

# What a key set may weigh, and how many keys and tokens are looked at: beyond it is an attack or an error.
MAX_JWKS_BYTES = 1 << 20


class LocalJwks(Struct, frozen=True, gc=False):
    """A JSON web key set in the configuration: its text, or the file that holds it."""

    text: str = ""
    path: str = ""


class RemoteJwks(Struct, frozen=True, gc=False):
    """A JSON web key set to be fetched.

    Attributes:
        uri: Where from.
        cluster: The cluster that leads there.
        timeout_seconds: For one fetch.
        cache_seconds: How long a fetched set is used before it is fetched again.
    """

    uri: str
    cluster: str
    timeout_seconds: float
    cache_seconds: float = _CACHE_SECONDS


class JwtHeader(Struct, frozen=True, gc=False):
    """A header that may hold a token, after a prefix."""

    name: str
    prefix: str = ""


class JwtProvider(Struct, frozen=True, gc=False):
    """An issuer of tokens, where requests carry them, and what is made of them (JwtProvider).

    Attributes:
        issuer: The `iss` that tokens must have; empty takes any.
        audiences: One must be among the token's `aud`; empty takes any.
        forward: The token stays in the request.
        headers, params, cookies: Where tokens are looked for; with none set, `Authorization: Bearer` and the query
            parameter `access_token`.
        forward_payload_header: Header that gets the payload, base64url.
        payload_in_metadata, header_in_metadata: Names under which they are told to later filters.
        claim_to_headers: Header and claim (a path of names, joined by dots).
        space_delimited_claims: Claims that are told to later filters as lists.
    """

    name: str
    issuer: str = ""
    audiences: frozenset[str] = frozenset()
    subjects: StringMatcher | None = None
    require_expiration: bool = False
    max_lifetime_seconds: float | None = None
    jwks: LocalJwks | RemoteJwks = LocalJwks()
    forward: bool = False
    headers: tuple[JwtHeader, ...] = ()
    params: tuple[str, ...] = ()
    cookies: tuple[str, ...] = ()
    forward_payload_header: str = ""
    pad_payload: bool = False
    payload_in_metadata: str = ""
    header_in_metadata: str = ""
    failed_status_in_metadata: str = ""
    clock_skew_seconds: int = _CLOCK_SKEW_SECONDS
    claim_to_headers: tuple[tuple[str, str], ...] = ()
    space_delimited_claims: frozenset[str] = frozenset()


class ProviderRequired(Struct, frozen=True, gc=False):
    """A good token of this provider; `audiences` take the place of the provider's own where they are set."""

    provider: str
    audiences: frozenset[str] = frozenset()


class AnyRequired(Struct, frozen=True, gc=False):
    """One of these is met."""

    requirements: tuple[JwtRequirement, ...]


class AllRequired(Struct, frozen=True, gc=False):
    """All of these are met."""

    requirements: tuple[JwtRequirement, ...]


class AllowMissing(Struct, frozen=True, gc=False):
    """No token, or a good one of some provider."""


class AllowMissingOrFailed(Struct, frozen=True, gc=False):
    """Anything; good tokens are told to later filters."""


JwtRequirement = ProviderRequired | AnyRequired | AllRequired | AllowMissing | AllowMissingOrFailed


class JwtRule(Struct, frozen=True, gc=False):
    """Which requests need what; None needs nothing."""

    match: RouteMatch
    requirement: JwtRequirement | None


class JwtAuthentication(FilterSetting, Struct, frozen=True, gc=False):
    """The filter (JwtAuthentication). The first rule that matches counts; without one nothing is needed."""

    stands_beside_routes: ClassVar[bool] = True

    providers: dict[str, JwtProvider] = field(default_factory=dict)
    rules: tuple[JwtRule, ...] = ()
    requirements: dict[str, JwtRequirement] = field(default_factory=dict)
    bypass_cors_preflight: bool = False
    strip_failure_response: bool = False

    @property
    def asked_clusters(self) -> tuple[str, ...]:
        """Where keys are fetched from."""
        sources = [provider.jwks for provider in self.providers.values()]
        return tuple(one.cluster for one in sources if isinstance(one, RemoteJwks))


class JwtPerRoute(FilterSetting, Struct, frozen=True, gc=False):
    """What a route says: a requirement by name, in place of the rules."""

    requirement: str


def parse_jwt_per_route(container: Any, where: str, notes: Notes) -> JwtPerRoute | None:
    """The PerRouteConfig inside a google.protobuf.Any; None switches the filter off."""
    message = unpack(container, config_pb2.PerRouteConfig, where)
    return None if message.disabled else JwtPerRoute(message.requirement_name)


def parse_jwt_authentication(container: Any, where: str, notes: Notes) -> JwtAuthentication:
    """The JwtAuthentication inside a google.protobuf.Any.

    Raises:
        ResourceError: A rule names a provider or requirement that is not there, or something is not known.
    """
    message = unpack(container, config_pb2.JwtAuthentication, where)
    if message.HasField("filter_state_rules"):
        raise ResourceError(f"{where}.filter_state_rules", "there is no filter state here")
    notes.unless_acted_on(message, where, _FILTER_FIELDS)
    providers = {
        name: _parse_provider(name, provider, f"{where}.providers[{name!r}]", notes)
        for name, provider in message.providers.items()
    }
    named = {
        name: _parse_requirement(one, providers, f"{where}.requirement_map[{name!r}]")
        for name, one in message.requirement_map.items()
    }
    rules = []
    for index, rule in enumerate(message.rules):
        path = f"{where}.rules[{index}]"
        requirement: JwtRequirement | None = None
        if rule.WhichOneof("requirement_type") == "requirement_name":
            if rule.requirement_name not in named:
                raise ResourceError(f"{path}.requirement_name", f"{rule.requirement_name!r} is not in requirement_map")
            requirement = named[rule.requirement_name]
        elif rule.HasField("requires") and rule.requires.WhichOneof("requires_type") is not None:
            requirement = _parse_requirement(rule.requires, providers, f"{path}.requires")
        rules.append(JwtRule(parse_match(rule.match, f"{path}.match", notes), requirement))
    return JwtAuthentication(
        providers, tuple(rules), named, message.bypass_cors_preflight, message.strip_failure_response
    )


def _parse_requirement(message: Any, providers: dict[str, JwtProvider], where: str) -> JwtRequirement:
    which = message.WhichOneof("requires_type")
    path = f"{where}.{which}"

    def known(name: str) -> str:
        if name not in providers:
            raise ResourceError(path, f"there is no provider {name!r}")
        return name

    match which:
        case "provider_name":
            return ProviderRequired(known(message.provider_name))
        case "provider_and_audiences":
            one = message.provider_and_audiences
            return ProviderRequired(known(one.provider_name), frozenset(one.audiences))
        case "requires_any" | "requires_all":
            inner = tuple(
                _parse_requirement(one, providers, f"{path}.requirements[{index}]")
                for index, one in enumerate(getattr(message, which).requirements)
            )
            return AnyRequired(inner) if which == "requires_any" else AllRequired(inner)
        case "allow_missing":
            return AllowMissing()
        case "allow_missing_or_failed":
            return AllowMissingOrFailed()
        case _:
            raise ResourceError(where, "is a requirement that meshsdk does not know")


def _parse_provider(name: str, message: Any, where: str, notes: Notes) -> JwtProvider:
    notes.unless_acted_on(message, where, _PROVIDER_FIELDS)
    if message.clear_route_cache:
        notes.add(f"{where}.clear_route_cache", "the route is chosen once, before the filters")
    for index, header in enumerate(message.from_headers):
        if not header.name:
            raise ResourceError(f"{where}.from_headers[{index}].name", "must be set")
    return JwtProvider(
        name=name,
        issuer=message.issuer,
        audiences=frozenset(message.audiences),
        subjects=parse_string_matcher(message.subjects, f"{where}.subjects") if message.HasField("subjects") else None,
        require_expiration=message.require_expiration,
        max_lifetime_seconds=seconds(message, "max_lifetime"),
        jwks=_parse_jwks(message, where, notes),
        forward=message.forward,
        headers=tuple(JwtHeader(header.name.lower(), header.value_prefix) for header in message.from_headers),
        params=tuple(message.from_params),
        cookies=tuple(message.from_cookies),
        forward_payload_header=message.forward_payload_header.lower(),
        pad_payload=message.pad_forward_payload_header,
        payload_in_metadata=message.payload_in_metadata,
        header_in_metadata=message.header_in_metadata,
        failed_status_in_metadata=message.failed_status_in_metadata,
        # Envoy: 0 is the default, too.
        clock_skew_seconds=message.clock_skew_seconds or _CLOCK_SKEW_SECONDS,
        claim_to_headers=tuple((one.header_name.lower(), one.claim_name) for one in message.claim_to_headers),
        space_delimited_claims=frozenset(message.normalize_payload_in_metadata.space_delimited_claims),
    )


def _parse_jwks(message: Any, where: str, notes: Notes) -> LocalJwks | RemoteJwks:
    if message.WhichOneof("jwks_source_specifier") == "local_jwks":
        which = message.local_jwks.WhichOneof("specifier")
        if which == "filename":
            return LocalJwks(path=message.local_jwks.filename)
        if which == "inline_string":
            return LocalJwks(text=message.local_jwks.inline_string)
        if which == "inline_bytes":
            return LocalJwks(text=message.local_jwks.inline_bytes.decode("utf-8", "replace"))
        raise ResourceError(f"{where}.local_jwks", "must give filename, inline_string or inline_bytes")
    remote = message.remote_jwks
    notes.unless_acted_on(remote, f"{where}.remote_jwks", _REMOTE_FIELDS)
    uri = remote.http_uri
    return RemoteJwks(
        uri=uri.uri,
        cluster=normalised(uri.cluster),
        timeout_seconds=seconds(uri, "timeout") or 1.0,
        cache_seconds=optional(remote, "cache_duration", lambda one: one.seconds + one.nanos / 1e9) or _CACHE_SECONDS,
    )
