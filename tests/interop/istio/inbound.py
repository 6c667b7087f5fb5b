"""Whom servers let in: requests and peers, made of the policies that stand in a folder, and what becomes of them.

The judge is istiod's listener for a sidecar, `virtualInbound`: its profile for gRPC servers has no tokens, no CUSTOM
policies and no permissive mode, and leaves out policies without rules (docs/security.md).
"""

from __future__ import annotations

import base64
import json
import random
import threading
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from meshsdk.controlplane import FolderState
from meshsdk.controlplane.state import INBOUND_PREFIX
from meshsdk.discovery import ServerView
from meshsdk.errors import ConfigError, ResourceError
from meshsdk.exchange import LocalReply
from meshsdk.inbound import Connection, InboundPolicy, InboundRequest, compile_policy
from meshsdk.inbound.waits import FetchKeys
from meshsdk.resources import ResourceType, ServerListener, decode
from meshsdk.routing import RequestHead
from meshsdk.security.peer_identity import PeerCertificate, read_peer

from .case import Case, Server
from .client_view import Sidecar, packed_of
from .istiod import Answer, NodeResources
from .view import to_message

__all__ = ["KEYS", "SIGNING_KEY", "compare_servers", "key_server"]

Json = dict[str, Any]

# Fact, subject, client, ours, istiod's.
Found = tuple[str, str, str, Any, Any]


def _number(value: int) -> str:
    return base64.urlsafe_b64encode(value.to_bytes(32, "big")).rstrip(b"=").decode()


# Cases have the public half in their JWKS, and are recorded; so the key must always be the same one.
SIGNING_KEY = ec.derive_private_key(20240101, ec.SECP256R1())

# The same as a key set, and where istiod fetches it (`key_server`).
_POINT = SIGNING_KEY.public_key().public_numbers()
_KEY = {"kty": "EC", "crv": "P-256", "kid": "corpus", "alg": "ES256", "x": _number(_POINT.x), "y": _number(_POINT.y)}
KEYS = json.dumps({"keys": [_KEY]})
KEYS_PORT = 47811
KEYS_URI = f"http://127.0.0.1:{KEYS_PORT}/keys"

_SINCE = datetime(2024, 1, 1)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that comes in, and by what connection.

    Attributes:
        principal: The peer's SPIFFE ID; empty is plaintext.
    """

    method: str
    target: str
    host: str
    headers: tuple[tuple[str, str], ...]
    principal: str
    source: str
    server_name: str

    def __str__(self) -> str:
        headers = "".join(f" {name}: {value[:40]!r}" for name, value in self.headers)
        return f"{self.method} {self.host}{self.target}{headers} from {self.source} {self.principal or 'plaintext'}"


class _Keys(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = KEYS.encode() if self.path == "/keys" else b""
        self.send_response(200 if body else 404)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing."""


@contextmanager
def key_server() -> Iterator[None]:
    """Where istiod fetches the keys of cases that name a place for them: always the same, as answers are recorded."""
    try:
        server = ThreadingHTTPServer(("127.0.0.1", KEYS_PORT), _Keys)
    except OSError:
        # Another comparison runs, and serves the same.
        yield
        return
    with server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


def compare_servers(
    case: Case, state: FolderState, answer: Answer, limit: int, *, as_sidecars: bool = False
) -> tuple[int, list[Found]]:
    """Ask the servers of a case, each up to so many requests; how many verdicts there were, and which differ.

    Args:
        case: What is looked at.
        state: The folder, as meshsdk translates it.
        answer: istiod's.
        limit: Requests of each server at the most.
        as_sidecars: Ours are by istiod's own listener as a whole, and not by the folder.
    """
    found: list[Found] = []
    number = 0
    for server, (_, sidecar) in zip(case.servers, answer.servers, strict=True):
        ours = _of_whole(sidecar) if as_sidecars else _of_folder(state, server)
        theirs = _of_sidecar(sidecar, server)
        if isinstance(ours, str) or isinstance(theirs, str):
            # Two that fail do not agree: each may have its own reason.
            found.append(("server.listener", str(server), "all", _there(ours), _there(theirs)))
            continue
        for asked in _asked_of(case, server, limit):
            number += 1
            mine, other = _verdict(ours, asked, server), _verdict(theirs, asked, server)
            if mine != other:
                found.append(("server.verdict", f"{server}: {asked}", "all", mine, other))
    return number, found


def _there(policy: InboundPolicy | str) -> str:
    return policy if isinstance(policy, str) else "there"


def _of_folder(state: FolderState, server: Server) -> InboundPolicy | str:
    try:
        packed = state.inbound(f"{INBOUND_PREFIX}{server.address}:{server.port}")
        return _compiled(packed or b"")
    except (ConfigError, ResourceError) as error:
        return str(error)


def _of_whole(node: NodeResources) -> InboundPolicy | str:
    client = Sidecar(packed_of(node))
    view = client.inbound()
    return compile_policy(view, None) if view.listener is not None else view.problem


def _of_sidecar(node: NodeResources, server: Server) -> InboundPolicy | str:
    document = next((one for one in node.listeners if one["name"] == "virtualInbound"), None)
    if document is None:
        return "no virtualInbound"
    chains = [
        _chain(chain)
        for chain in document["filter_chains"]
        if chain.get("filter_chain_match", {}).get("destination_port") == server.port
    ]
    if not chains:
        return f"no chain for port {server.port}"
    shortened = {"@type": document["@type"], "name": document["name"], "filter_chains": chains}
    try:
        return _compiled(to_message(shortened).SerializeToString())
    except ResourceError as error:
        return str(error)


def _compiled(packed: bytes) -> InboundPolicy:
    listener = decode(ResourceType.LISTENER, packed)
    assert isinstance(listener, ServerListener)
    return compile_policy(ServerView(listener), None)


_MANAGER = "envoy.filters.network.http_connection_manager"

# Of a connection manager, what says who gets in and as whom.
_KEPT = frozenset(
    (
        *("@type", "http_filters", "normalize_path", "merge_slashes", "path_with_escaped_slashes_action"),
        *("use_remote_address", "xff_num_trusted_hops"),
        *("forward_client_cert_details", "set_current_client_cert_details"),
    )
)
_FILTERS = ("jwt_authn", "rbac", "ext_authz", "router")


def _chain(chain: Json) -> Json:
    """A chain with its HTTP alone, whose routes lead to the application instead of to a cluster."""
    managers = [one["typed_config"] for one in chain["filters"] if one["name"] == _MANAGER]
    if not managers:
        return {**chain, "filters": []}
    manager = {name: value for name, value in managers[0].items() if name in _KEPT}
    filters = [
        {**one, "name": f"{one['name']} {place}"}
        for place, one in enumerate(manager["http_filters"])
        if any(kind in one["typed_config"]["@type"] for kind in _FILTERS)
    ]
    routes = [{"name": "default", "match": {"prefix": "/"}, "non_forwarding_action": {}}]
    manager |= {
        "stat_prefix": "inbound",
        "http_filters": filters,
        "route_config": {"name": "inbound", "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
    }
    return {**chain, "filters": [{"name": _MANAGER, "typed_config": manager}]}


def _verdict(policy: InboundPolicy, asked: Asked, server: Server) -> list[Any]:
    """`in` with the headers that the application gets, an answer's status, or that the connection is refused."""
    connection = Connection(
        is_tls=bool(asked.principal),
        peer=_peer(asked.principal) if asked.principal else None,
        source_ip=asked.source,
        source_port=40000,
        destination_ip=server.address,
        destination_port=server.port,
        server_name=asked.server_name if asked.principal else "",
        # A client that speaks Istio's mutual TLS offers these; a sidecar's chains ask for them.
        application_protocols=("istio-http/1.1", "istio", "http/1.1") if asked.principal else (),
    )
    if policy.chain_of(connection) is None:
        return ["refused"]
    headers = [(b"host", asked.host.encode())]
    headers += [(name.encode("latin-1"), value.encode("latin-1")) for name, value in asked.headers]
    request = InboundRequest(RequestHead(asked.method, "http", asked.host, asked.target, headers), connection)
    return [*_outcome(policy, request), _told(request)]


# By which an audit and a dry run are seen (docs, http_filters/rbac_filter, dynamic metadata).
_TELLING = ("envoy.common", "envoy.filters.http.rbac")


def _told(request: InboundRequest) -> dict[str, Any]:
    """What policies have told of a request, beside whether it gets in."""
    return {"audit": request.audit, **{name: request.metadata.get(name, {}) for name in _TELLING}}


def _outcome(policy: InboundPolicy, request: InboundRequest) -> list[Any]:
    outcome = policy.begin(request)
    if isinstance(outcome, Generator):
        steps = outcome
        try:
            waits = next(steps)
            while isinstance(waits, FetchKeys):
                waits = steps.send(KEYS if waits.remote.uri == KEYS_URI else None)
        except StopIteration as end:
            outcome = end.value
        else:
            steps.close()
            return ["waits", type(waits).__name__]
    if isinstance(outcome, LocalReply):
        return [outcome.status, outcome.body.decode("latin-1")]
    kept = [[name.decode("latin-1").lower(), value.decode("latin-1")] for name, value in request.head.raw_headers]
    # By what way and for whom it came is the server's own to say, and no listener's.
    # Ids are made anew for each request.
    return ["in", sorted(one for one in kept if one[0] not in ("x-forwarded-for", "x-forwarded-proto", "x-request-id"))]


@cache
def _peer(principal: str) -> PeerCertificate:
    """A peer's certificate; who has signed it was the handshake's to ask."""
    name = x509.Name([])
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(principal)])
    builder = x509.CertificateBuilder(name, name, SIGNING_KEY.public_key(), 1)
    builder = builder.not_valid_before(_SINCE).not_valid_after(_SINCE + timedelta(days=36500))
    certificate = builder.add_extension(names, critical=True).sign(SIGNING_KEY, hashes.SHA256())
    return read_peer(certificate.public_bytes(serialization.Encoding.DER))


def _asked_of(case: Case, server: Server, limit: int) -> Iterator[Asked]:
    pools = _Pools(case, server)
    chance = random.Random(f"{case.name} {server}")
    seen: set[Asked] = set()
    for _ in range(limit):
        asked = pools.draw(chance)
        if asked not in seen:
            seen.add(asked)
            yield asked


class _Pools:
    """Values that the policies of a folder name, and some that they do not."""

    def __init__(self, case: Case, server: Server) -> None:
        self.methods = ["GET", "POST", "DELETE", "OPTIONS"]
        self.paths = ["/", "/other"]
        self.hosts = [f"server:{server.port}", "server.example.com", "x.wild.example.com"]
        self.principals = ["", "spiffe://cluster.local/ns/default/sa/web", "spiffe://cluster.local/ns/nobody/sa/nobody"]
        self.sources = ["192.0.2.1", "10.1.2.3", "10.1.9.9", "10.2.0.1"]
        self.names = ["", f"outbound_.80_._.server.{server.namespace}.svc.cluster.local"]
        self.headers = [("x-forwarded-client-cert", "By=spiffe://x/y;URI=spiffe://cluster.local/ns/default/sa/admin")]
        self.tokens: list[tuple[str, str]] = []
        for document in case.documents:
            spec = document.get("spec") or {}
            namespace = (document.get("metadata") or {}).get("namespace", "default")
            if document.get("kind") == "AuthorizationPolicy":
                self._read_policy(spec, namespace)
            elif document.get("kind") == "RequestAuthentication":
                self._read_tokens(spec)

    def draw(self, chance: random.Random) -> Asked:
        """One request by chance."""
        headers: dict[str, str] = {}
        if self.headers and chance.random() < 0.7:
            headers.update([chance.choice(self.headers)])
        path, method = chance.choice(self.paths), chance.choice(self.methods)
        if method == "OPTIONS" and chance.random() < 0.7:
            # A browser asks before it sends: with both of these no token is asked for.
            headers |= {"origin": "https://a.example.com", "access-control-request-method": "GET"}
            if chance.random() < 0.3:
                del headers[chance.choice(("origin", "access-control-request-method"))]
        if self.tokens and chance.random() < 0.8:
            name, value = chance.choice(self.tokens)
            if name == "?":
                path = f"{path}?token={value}"
            else:
                headers[name] = value
        return Asked(
            method,
            path,
            chance.choice(self.hosts),
            tuple(headers.items()),
            chance.choice(self.principals),
            chance.choice(self.sources),
            chance.choice(self.names),
        )

    def _read_policy(self, spec: Mapping[str, Any], namespace: str) -> None:
        for rule in spec.get("rules") or ():
            for one in rule.get("from") or ():
                self._read_source(one.get("source") or {}, namespace)
            for one in rule.get("to") or ():
                operation = one.get("operation") or {}
                for path in _both(operation, "paths"):
                    self.paths += _around_path(path)
                self.methods += [method.replace("*", "UT") for method in _both(operation, "methods")]
                self.hosts += [host.replace("*", "any") for host in _both(operation, "hosts")]
            for condition in rule.get("when") or ():
                self._read_condition(condition, namespace)

    def _read_source(self, source: Mapping[str, Any], namespace: str) -> None:
        self.principals += [f"spiffe://{one.replace('*', 'x')}" for one in _both(source, "principals")]
        self.principals += [_spiffe(one.replace("*", "x"), "any") for one in _both(source, "namespaces")]
        for account in _both(source, "serviceAccounts"):
            of, _, name = account.rpartition("/")
            self.principals += [_spiffe(of or namespace, name), _spiffe("elsewhere", name)]
        for block in (*_both(source, "ipBlocks"), *_both(source, "remoteIpBlocks")):
            self.sources.append(block.partition("/")[0])

    def _read_condition(self, condition: Mapping[str, Any], namespace: str) -> None:
        key, values = condition["key"], _both(condition, "values")
        if key.startswith("request.headers["):
            name = key.removeprefix("request.headers[").removesuffix("]")
            for value in (*values, "", "other"):
                self.headers += [(name, value.replace("*", "")), (name, value.replace("*", "x"))]
        elif key == "source.principal":
            self.principals += [f"spiffe://{one.replace('*', 'cluster.local/ns/x')}" for one in values]
        elif key == "source.namespace":
            self.principals += [_spiffe(one.replace("*", "x"), "any") for one in values]
        elif key == "source.serviceAccount":
            self._read_source({"serviceAccounts": values}, namespace)

    def _read_tokens(self, spec: Mapping[str, Any]) -> None:
        for rule in spec.get("jwtRules") or ():
            for token in _tokens(rule["issuer"]):
                self.tokens.append(("authorization", f"Bearer {token}"))
                for header in rule.get("fromHeaders") or ():
                    self.tokens.append((header["name"], f"{header.get('prefix', '')}{token}"))
                if rule.get("fromParams"):
                    self.tokens.append(("?", token))
        self.tokens += [("authorization", "Bearer nonsense"), ("authorization", "Basic YTpi")]


def _both(values: Mapping[str, Any], name: str) -> list[str]:
    negated = f"not{name[0].upper()}{name[1:]}"
    return [*(values.get(name) or ()), *(values.get(negated) or ())]


def _spiffe(namespace: str, account: str) -> str:
    return f"spiffe://cluster.local/ns/{namespace}/sa/{account}"


def _around_path(path: str) -> list[str]:
    filled = path.replace("{**}", "a/b").replace("{*}", "a").replace("*", "more")
    return [
        filled,
        filled,
        path.replace("{**}", "").replace("{*}", "").replace("*", "") or "/",
        f"{filled}/x",
        f"{filled}?q=1",
    ]


@cache
def _tokens(issuer: str) -> tuple[str, ...]:
    """Good tokens, with and without what policies ask for, and bad ones."""
    # Far in the future, so that recorded answers hold.
    good: Json = {"iss": issuer, "sub": "ann", "aud": "shop", "exp": 4102444800}
    claims: tuple[Json, ...] = (
        good,
        {**good, "sub": "bob", "groups": "staff", "azp": "web"},
        {**good, "groups": ["x", "staff"], "deep": {"er": "never"}, "aud": ["admin", "shop"]},
        {**good, "groups": ["x"], "deep": {"er": "yes"}, "scope": "a staff"},
        {**good, "groups": ["staff"], "deep": {"er": ["yes"]}, "aud": "nobody"},
        {**good, "exp": 1},
        {**good, "iss": "https://unknown.example.com"},
    )
    signed = [jwt.encode(one, SIGNING_KEY, "ES256", {"kid": "corpus"}) for one in claims]
    other = ec.derive_private_key(7, ec.SECP256R1())
    return (*signed, jwt.encode(good, other, "ES256", {"kid": "corpus"}))
