"""What Istio's security policies say (istio/api security/v1beta1/*.proto, mesh/v1alpha1/config.proto)."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct, field

__all__ = [
    "AuthorizationPolicy",
    "Condition",
    "JwtRule",
    "MeshConfig",
    "Operation",
    "PeerAuthentication",
    "Provider",
    "RequestAuthentication",
    "Rule",
    "SecurityWorld",
    "Source",
]


class PeerAuthentication(Struct, frozen=True):
    """Whether peers must prove who they are; `selector` None is for the whole namespace.

    Attributes:
        created: When, as RFC 3339 writes it; empty where it is not known.
    """

    name: str
    namespace: str
    selector: Mapping[str, str] | None
    mode: str
    ports: Mapping[int, str] = field(default_factory=dict)
    created: str = ""


class JwtRule(Struct, frozen=True):
    """One issuer (istio.security.v1beta1.JWTRule)."""

    issuer: str
    audiences: tuple[str, ...] = ()
    jwks: str = ""
    jwks_uri: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    params: tuple[str, ...] = ()
    cookies: tuple[str, ...] = ()
    output_payload_header: str = ""
    claim_headers: tuple[tuple[str, str], ...] = ()
    forward_token: bool = False
    timeout_seconds: float = 5.0
    space_delimited_claims: tuple[str, ...] = ()


class RequestAuthentication(Struct, frozen=True):
    """Whose tokens are good."""

    name: str
    namespace: str
    selector: Mapping[str, str] | None
    rules: tuple[JwtRule, ...]


Values = tuple[str, ...]


class Source(Struct, frozen=True):
    """Who asks (istio.security.v1beta1.Source): by field, values and values that must not be."""

    values: Mapping[str, Values]
    not_values: Mapping[str, Values]


class Operation(Struct, frozen=True):
    """What is asked (istio.security.v1beta1.Operation)."""

    values: Mapping[str, Values]
    not_values: Mapping[str, Values]


class Condition(Struct, frozen=True):
    """A further condition (istio.security.v1beta1.Condition)."""

    key: str
    values: Values
    not_values: Values


class Rule(Struct, frozen=True):
    """Sources and operations, each any of several, and conditions that must all hold."""

    sources: tuple[Source, ...]
    operations: tuple[Operation, ...]
    conditions: tuple[Condition, ...]


class AuthorizationPolicy(Struct, frozen=True):
    """Who may do what."""

    name: str
    namespace: str
    selector: Mapping[str, str] | None
    action: str
    rules: tuple[Rule, ...]
    provider: str = ""
    is_dry_run: bool = False
    where: str = ""


class Provider(Struct, frozen=True):
    """An authorization server (MeshConfig.ExtensionProvider, envoyExtAuthzGrpc and envoyExtAuthzHttp)."""

    name: str
    service: str
    port: int
    is_http: bool
    timeout_seconds: float = 600.0
    fail_open: bool = False
    status_on_error: int = 403
    path_prefix: str = ""
    request_headers: Values = ()
    headers_to_add: Mapping[str, str] = field(default_factory=dict)
    upstream_headers: Values = ()
    client_headers: Values = ()
    client_headers_on_success: Values = ()
    max_body_bytes: int | None = None
    allow_partial_body: bool = False


class MeshConfig(Struct, frozen=True):
    """What of MeshConfig matters to servers."""

    trust_domain: str = "cluster.local"
    trust_domain_aliases: Values = ()
    path_normalization: str = "DEFAULT"
    root_namespace: str = "istio-system"
    providers: Mapping[str, Provider] = field(default_factory=dict)
    enable_auto_mtls: bool = True


class SecurityWorld(Struct):
    """All security policies of a folder.

    Attributes:
        peers: The oldest first.
        mesh_where: Where `mesh` stands; empty where it is made of defaults.
        broken: What is wrong with those that are, or may be, policies. While there is one, nobody gets in.
    """

    mesh: MeshConfig = MeshConfig()
    mesh_where: str = ""
    peers: list[PeerAuthentication] = field(default_factory=list)
    requests: list[RequestAuthentication] = field(default_factory=list)
    authorizations: list[AuthorizationPolicy] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
