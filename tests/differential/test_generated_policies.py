"""Thousands of generated requests under generated policies: the real Envoy, our ASGI and our WSGI middleware agree.

Each request is put to Envoy's listener and to both middlewares, with the same filters and routes. What is compared is
the status, the body of an answer in the application's place, the headers and the target that the application gets, and
the headers of the response.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import urllib.parse
from collections import Counter
from collections.abc import Iterable, Iterator
from random import Random
from typing import Any

import pytest
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2  # noqa: F401 - JSON names these in an Any
from envoy.extensions.filters.http.set_filter_state.v3 import set_filter_state_pb2  # noqa: F401
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.matching.common_inputs.network.v3 import network_inputs_pb2  # noqa: F401
from envoy.extensions.matching.common_inputs.ssl.v3 import ssl_inputs_pb2  # noqa: F401
from envoy.extensions.matching.input_matchers.consistent_hashing.v3 import consistent_hashing_pb2  # noqa: F401
from envoy.extensions.matching.input_matchers.ip.v3 import ip_pb2  # noqa: F401
from envoy.extensions.matching.input_matchers.metadata.v3 import metadata_pb2  # noqa: F401
from envoy.extensions.matching.input_matchers.runtime_fraction.v3 import runtime_fraction_pb2  # noqa: F401
from envoy.extensions.rbac.matchers.upstream_ip_port.v3 import upstream_ip_port_matcher_pb2  # noqa: F401
from envoy.type.matcher.v3 import http_inputs_pb2  # noqa: F401
from google.protobuf import json_format
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from meshsdk import Mesh
from meshsdk.discovery import ServerView
from meshsdk.errors import ResourceError
from meshsdk.inbound import Connection, Fact, compile_policy
from meshsdk.resources import ResourceType, ServerListener, decode
from meshsdk.server.asgi import AsgiMiddleware
from meshsdk.server.connections import CONNECTION
from meshsdk.server.wsgi import WsgiMiddleware

from .compare import compare
from .generate_inbound import CONDITIONS, FILTERS, OPTIONS, condition, make_request, policies
from .judge import Decision, EnvoyJudge, ManagerOptions, Request, running_judge
from .shrink import smallest
from .test_generated_routes import static_cluster
from .tokens import TOKENS
from .upstream import RESPONSE_HEADERS, EchoUpstreams

REQUESTS_PER_CONFIGURATION = 40
CONFIGURATIONS = int(os.environ.get("MESHSDK_DIFFERENTIAL_EXAMPLES", "300"))
SEED = int(os.environ.get("MESHSDK_DIFFERENTIAL_SEED", "1"))
PORT = 8080


def server_listener(option: ManagerOptions, routes: route_pb2.RouteConfiguration) -> ServerListener:
    """What Envoy's listener is, with the routes in it."""
    router = {
        "name": "router",
        "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
    }
    fields = {"stat_prefix": "ours", "generate_request_id": False, "http_filters": [*FILTERS, router], **option.fields}
    manager = json_format.ParseDict(fields, http_connection_manager_pb2.HttpConnectionManager())
    manager.route_config.CopyFrom(routes)
    message = listener_pb2.Listener(name=option.name)
    message.filter_chains.add().filters.add(name="manager").typed_config.Pack(manager)
    listener = decode(ResourceType.LISTENER, message.SerializeToString())
    assert isinstance(listener, ServerListener)
    return listener


class OurServers:
    """The echo application behind both middlewares."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._asgi = AsgiMiddleware(_asgi_echo, mesh=mesh, port=PORT)
        self._wsgi = WsgiMiddleware(_wsgi_echo, mesh=mesh, port=PORT)
        self._name = mesh.inbound(PORT).name
        self._socket, self._other_end = socket.socketpair()

    def configure(self, listener: ServerListener) -> None:
        """Put a policy in force, with nothing remembered of the one before."""
        policy = compile_policy(ServerView(listener), None)
        if policy.problem:
            raise ResourceError("policy", policy.problem)
        self._mesh._runtime.policies = {self._name: policy}

    async def by_asgi(self, request: Request) -> Decision:
        """The request as uvicorn hands it over."""
        path, _, query = request.target.partition("?")
        scope = {
            "type": "http",
            "method": request.method,
            "scheme": "http",
            # Envoy is asked over a unix socket, and so are servers of ours.
            CONNECTION: Connection(untold=frozenset({Fact.DESTINATION_IP})),
            "path": urllib.parse.unquote(path),
            "raw_path": path.encode("latin-1"),
            "query_string": query.encode("latin-1"),
            "headers": [
                (b"host", request.authority.encode()),
                *((name.encode(), value.encode("latin-1")) for name, value in request.headers),
            ],
        }
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        await self._asgi(scope, receive, send)
        body = b"".join(message.get("body", b"") for message in sent)
        headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in sent[0]["headers"])
        return _decision(sent[0]["status"], headers, body)

    def by_wsgi(self, request: Request) -> Decision:
        """The request as gunicorn hands it over."""
        path, _, query = request.target.partition("?")
        environ: dict[str, Any] = {
            "REQUEST_METHOD": request.method,
            "PATH_INFO": urllib.parse.unquote_to_bytes(path).decode("latin-1"),
            "QUERY_STRING": query,
            "RAW_URI": request.target,
            "HTTP_HOST": request.authority,
            "wsgi.url_scheme": "http",
            "gunicorn.socket": self._socket,
        }
        for name, value in request.headers:
            environ[f"HTTP_{name.upper().replace('-', '_')}"] = value
        started: list[tuple[str, list[tuple[str, str]]]] = []
        response = self._wsgi(environ, lambda status, headers, exc_info=None: started.append((status, headers)))
        body = b"".join(response)
        response.close()  # type: ignore[attr-defined]
        return _decision(int(started[0][0][:3]), tuple(started[0][1]), body)


async def _asgi_echo(scope: Any, receive: Any, send: Any) -> None:
    query = scope["query_string"].decode("latin-1")
    target = scope["raw_path"].decode("latin-1") + (f"?{query}" if query else "")
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
    body = json.dumps({"target": target, "headers": headers}).encode()
    own = [*RESPONSE_HEADERS, (b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": own})
    await send({"type": "http.response.body", "body": body})


def _wsgi_echo(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    headers = [
        (name[5:].replace("_", "-").lower(), value) for name, value in environ.items() if name.startswith("HTTP_")
    ]
    own = [(name.decode(), value.decode()) for name, value in RESPONSE_HEADERS]
    start_response("200 OK", [*own, ("content-type", "application/json")])
    return [json.dumps({"target": environ["RAW_URI"], "headers": headers}).encode()]


def _decision(status: int, headers: tuple[tuple[str, str], ...], body: bytes) -> Decision:
    if body.startswith(b'{"target": '):
        seen = json.loads(body)
        sent = tuple((name, value) for name, value in seen["headers"])
        return Decision(status, "c0", seen["target"], sent, headers)
    return Decision(status, response_headers=headers, body=body.decode("latin-1"))


class Bench:
    """All sides, ready to be asked."""

    def __init__(self, judge: EnvoyJudge, ours: OurServers) -> None:
        self.judge = judge
        self.ours = ours
        self.loop = asyncio.new_event_loop()
        self.decisions = 0
        self.refused = 0
        self.statuses: Counter[int] = Counter()
        self.options = {one.name: one for one in OPTIONS}

    def differences(self, option: str, configuration: dict[str, Any], asked: list[Request]) -> list[str]:
        """Where the sides do not agree, in words."""
        message = json_format.ParseDict(configuration, route_pb2.RouteConfiguration(name="policies"))
        refusal: ResourceError | None = None
        try:
            listener = server_listener(self.options[option], message)
            self.ours.configure(listener)
        except ResourceError as error:
            refusal = error
        accepted = self.judge.configure(option, message)
        if refusal is not None or not accepted:
            self.refused += 1
            if refusal is not None and not accepted:
                return []
            return [f"Envoy {'takes' if accepted else 'refuses'} it: {self.judge.refusal(option)}; meshsdk: {refusal}"]
        theirs = self.judge.ask(option, asked)
        found = []
        by_asgi = [self.loop.run_until_complete(self.ours.by_asgi(request)) for request in asked]
        self.ours.configure(listener)  # Buckets are full again.
        by_wsgi = [self.ours.by_wsgi(request) for request in asked]
        for request, expected, asgi, wsgi in zip(asked, theirs, by_asgi, by_wsgi, strict=True):
            self.decisions += 1
            self.statuses[expected.status] += 1
            for name, ours in (("ASGI", asgi), ("WSGI", wsgi)):
                found += [f"{name} {request}: {line}; {expected}" for line in compare(expected, ours)]
        return found

    def counter_example(
        self, option: str, configuration: dict[str, Any], asked: list[Request], found: list[str]
    ) -> str:
        """The first difference, with as little around it as shows it."""
        guilty = next(([one] for one in asked if self.differences(option, configuration, [one])), asked)
        again = self.differences(option, configuration, guilty)
        if not again:
            return f"{found[0]}\nit did not happen again; listener {option}\n{json.dumps(configuration, indent=1)}"
        is_about_taking = again[0].startswith("Envoy ")

        def still_differs(smaller: dict[str, Any]) -> bool:
            try:
                found = self.differences(option, smaller, guilty)
                return bool(found) and found[0].startswith("Envoy ") is is_about_taking
            except (json_format.ParseError, KeyError):
                return False

        small = smallest(configuration, still_differs)
        found = self.differences(option, small, guilty)
        return f"{found[0] if found else '?'}\nlistener {option}\n{json.dumps(small, indent=1)}"


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("policies")
    logging.getLogger("meshsdk.audit").disabled = True
    (folder / "mesh").mkdir()
    with EchoUpstreams(folder, ["c0"]) as upstreams, Mesh(config=folder / "mesh") as mesh:
        configs = [static_cluster(name, path) for name, path in upstreams.paths.items()]
        with running_judge(folder, OPTIONS, configs, FILTERS) as judge:
            made = Bench(judge, OurServers(mesh))
            yield made
            made.loop.close()
    logging.getLogger("meshsdk.audit").disabled = False


@pytest.mark.timeout(600)
def test_every_generated_request_is_answered_as_envoy_answers_it(bench: Bench) -> None:
    @seed(SEED)
    @settings(
        max_examples=CONFIGURATIONS,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate,),
    )
    @given(
        st.sampled_from([one.name for one in OPTIONS]),
        policies(),
        st.integers(0, 2**32),
    )
    def decide(option: str, configuration: dict[str, Any], draw: int) -> None:
        rng = Random(draw)
        asked = [make_request(rng) for _ in range(REQUESTS_PER_CONFIGURATION)]
        found = bench.differences(option, configuration, asked)
        assert not found, bench.counter_example(option, configuration, asked, found)

    decide()
    print(f"\n{bench.decisions} requests with seed {SEED}, no difference; statuses {dict(bench.statuses)}")
    assert bench.decisions >= 10_000 or CONFIGURATIONS < 300


def test_a_route_that_answers_by_itself_has_no_cross_origin_policy(bench: Bench) -> None:
    http = "type.googleapis.com/envoy.extensions.filters.http"
    always = {"default_value": {"numerator": 100}}
    csrf = {"@type": f"{http}.csrf.v3.CsrfPolicy", "filter_enabled": always}
    cors = {
        "@type": f"{http}.cors.v3.CorsPolicy",
        "allow_origin_string_match": [{"safe_regex": {"regex": ".*b.com"}}],
        "allow_credentials": True,
        "allow_methods": "GET,POST",
    }
    direct = {"status": 203, "body": {"inline_string": "direct"}}
    routes = [
        {"match": {"prefix": "/x"}, "direct_response": direct, "typed_per_filter_config": {"csrf": csrf}},
        {"match": {"prefix": "/r"}, "redirect": {"host_redirect": "y"}},
        {"match": {"prefix": "/a"}, "route": {"cluster": "c0"}},
    ]
    host = {"name": "v", "domains": ["*"], "routes": routes, "typed_per_filter_config": {"cors": cors}}
    origin, preflight = ("origin", "http://b.com"), ("access-control-request-method", "GET")
    asked = [
        Request(method, "other", target, headers)
        for method in ("DELETE", "GET", "OPTIONS")
        for target in ("/x", "/r", "/a", "/none")
        for headers in ((origin,), (origin, preflight))
    ]
    assert bench.differences("plain", {"virtual_hosts": [host]}, asked) == []


@pytest.mark.parametrize("action", ["ALLOW", "DENY"])
def test_each_cel_condition_decides_as_envoys_does(bench: Bench, action: str) -> None:
    asked = [
        Request(method, host, target, headers)
        for method in ("GET", "DELETE")
        for host, target in (("a.com", "/admin?token=x"), ("other", "/b"), ("a.com:80", "/a#frag"))
        for headers in ((), (("x-user", "admin"), ("x-role", "adm")), (("x-gone", "1"),))
    ]
    anything: dict[str, Any] = {"permissions": [{"any": True}], "principals": [{"any": True}]}
    for text in CONDITIONS:
        rules = {"action": action, "policies": {"one": {**anything, "condition": condition(text)}}}
        assert bench.differences("plain", {"virtual_hosts": [ruled({"rules": rules})]}, asked) == [], text


WITH_STRINGS = [
    "string(size(request.path)) == '6'",
    "request.method + request.host == 'GETa.com'",
    "request.headers['x-user'].lowerAscii() == 'admin' && request.method.upperAscii() == 'GET'",
    "request.path.split('/').join('-') == '-b'",
    "request.path.substring(1).replace('dmin', '') == 'a?token=x' || request.path.charAt(1) == 'b'",
    "request.path.indexOf('b') == 1 || request.path.lastIndexOf('n') == 5 && ' a '.trim() == 'a'",
]


@pytest.mark.parametrize("text", WITH_STRINGS)
def test_conditions_make_strings_where_the_policy_switches_that_on(bench: Bench, text: str) -> None:
    asked = [
        Request("GET", host, target, headers)
        for host, target in (("a.com", "/admin?token=x"), ("other", "/b"), ("a.com", "/admin"))
        for headers in ((), (("x-user", "Admin"),))
    ]
    config = {f"enable_string_{kind}": True for kind in ("conversion", "concat", "functions")}
    anything = {"permissions": [{"any": True}], "principals": [{"any": True}]}
    policies = {"one": {**anything, "condition": condition(text), "cel_config": config}}
    before = bench.statuses.copy()
    assert bench.differences("plain", {"virtual_hosts": [ruled({"rules": {"policies": policies}})]}, asked) == []
    assert set(bench.statuses - before) == {200, 403}


def ruled(rbac: dict[str, Any]) -> dict[str, Any]:
    """A virtual host whose one route has these rules."""
    per_route = {"@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBACPerRoute", "rbac": rbac}
    route = {"match": {"prefix": "/"}, "route": {"cluster": "c0"}, "typed_per_filter_config": {"rbac": per_route}}
    return {"name": "v", "domains": ["*"], "routes": [route]}


_INPUTS = {
    "header": ("envoy.type.matcher.v3.HttpRequestHeaderMatchInput", "header_name"),
    "query": ("envoy.type.matcher.v3.HttpRequestQueryParamMatchInput", "query_param"),
}


def _looked_at(kind: str, name: str = "") -> dict[str, Any]:
    """An input of a matcher."""
    if kind in _INPUTS:
        type_name, field = _INPUTS[kind]
        config = {"@type": f"type.googleapis.com/{type_name}", field: name}
    else:
        config = {"@type": f"type.googleapis.com/envoy.extensions.matching.common_inputs.{kind}"}
    return {"name": "input", "typed_config": config}


def _by(read: dict[str, Any], type_name: str, **fields: Any) -> dict[str, Any]:
    """A predicate by extension."""
    config = {"@type": f"type.googleapis.com/{type_name}", **fields}
    return {"single_predicate": {"input": read, "custom_match": {"name": "custom", "typed_config": config}}}


def _by_input_matcher(read: dict[str, Any], kind: str, **fields: Any) -> dict[str, Any]:
    return _by(read, f"envoy.extensions.matching.input_matchers.{kind}", **fields)


def _metadata(*path: str) -> dict[str, Any]:
    """The input of what jwt_authn has said."""
    kind = "type.googleapis.com/envoy.extensions.matching.common_inputs.network.v3.DynamicMetadataInput"
    keys = [{"key": one} for one in path]
    return {"name": "i", "typed_config": {"@type": kind, "filter": "envoy.filters.http.jwt_authn", "path": keys}}


def _cel(text: str) -> dict[str, Any]:
    read = {"typed_config": {"@type": "type.googleapis.com/xds.type.matcher.v3.HttpAttributesCelMatchInput"}}
    expression = {"parsed_expr": {"expr": condition(text)}}
    return _by({"name": "i", **read}, "xds.type.matcher.v3.CelMatcher", expr_match=expression)


def _by_address(read: dict[str, Any], *branches: dict[str, Any], **more: Any) -> dict[str, Any]:
    config = {"@type": "type.googleapis.com/xds.type.matcher.v3.IPMatcher", "range_matchers": list(branches)}
    tree = {"input": read, "custom_match": {"name": "ip", "typed_config": config}}
    return {"matcher_tree": tree, **more}


def _range(then: dict[str, Any], *texts: str, **more: Any) -> dict[str, Any]:
    ranges = [
        {"address_prefix": address, "prefix_len": int(length)}
        for address, _, length in (text.partition("/") for text in texts)
    ]
    return {"ranges": ranges, "on_match": then, **more}


def _value(kind: str, name: str, **match: Any) -> dict[str, Any]:
    return {"single_predicate": {"input": _looked_at(kind, name), "value_match": match}}


def _ends(action: str, name: str = "end") -> dict[str, Any]:
    config = {"@type": "type.googleapis.com/envoy.config.rbac.v3.Action", "name": name, "action": action}
    return {"action": {"name": "action", "typed_config": config}}


def _first(*entries: tuple[dict[str, Any], dict[str, Any]], **more: Any) -> dict[str, Any]:
    matchers = [{"predicate": predicate, "on_match": then} for predicate, then in entries]
    return {"matcher_list": {"matchers": matchers}, **more}


ADMIN = _value("header", "x-user", exact="admin")
ON_B = _value("header", ":path", prefix="/b")
IF_X = {"matcher": _first((_value("header", "x-role", exact="x"), _ends("ALLOW", "p one")))}
ALLOWED, DENIED, LOGGED = _ends("ALLOW", "p one"), _ends("DENY", "q"), _ends("LOG")
USER, ROLE = _looked_at("header", "x-user"), _looked_at("header", "x-role")
ATTRIBUTES = {
    "name": "i",
    "typed_config": {"@type": "type.googleapis.com/xds.type.matcher.v3.HttpAttributesCelMatchInput"},
}
TEN = {"address_prefix": "10.0.0.0", "prefix_len": 8}
HALF = {"default_value": {"numerator": 50}}
IS_S1 = {"string_match": {"exact": "s1"}}
IF_ADMIN = {"matcher": _first((ADMIN, DENIED))}
TRUE = condition("true")
MATCHERS = [
    _first((ADMIN, ALLOWED)),
    _first((ADMIN, DENIED), on_no_match=ALLOWED),
    _first((ADMIN, LOGGED)),
    {"on_no_match": ALLOWED},
    {"on_no_match": DENIED},
    _first(({"not_matcher": ADMIN}, ALLOWED)),
    _first(({"and_matcher": {"predicate": [ADMIN, _value("header", ":method", exact="GET")]}}, ALLOWED)),
    _first(({"or_matcher": {"predicate": [ADMIN, ON_B]}}, DENIED), on_no_match=ALLOWED),
    _first((_value("header", "x-user", safe_regex={"regex": "a.*", "google_re2": {}}), ALLOWED), (ADMIN, DENIED)),
    _first((ADMIN, {"matcher": _first((_value("header", "x-role", contains="adm"), DENIED))}), (ADMIN, ALLOWED)),
    _first((ADMIN, {"matcher": _first((_value("header", "x-role", exact="no"), DENIED))}), on_no_match=ALLOWED),
    _first((_value("header", ":authority", suffix=".com"), ALLOWED)),
    _first((_value("header", "X-User", exact="ADMIN", ignore_case=True), ALLOWED)),
    _first((_value("ssl.v3.UriSanInput", "", prefix="spiffe"), ALLOWED), on_no_match=DENIED),
    _first((_value("network.v3.ServerNameInput", "", exact="a.com"), DENIED), on_no_match=ALLOWED),
    {
        "matcher_tree": {
            "input": _looked_at("header", ":path"),
            "prefix_match_map": {"map": {"/a": ALLOWED, "/admin": DENIED, "/": LOGGED}},
        }
    },
    {
        "matcher_tree": {
            "input": _looked_at("header", "x-user"),
            "exact_match_map": {"map": {"admin": IF_X}},
        },
        "on_no_match": ALLOWED,
    },
    {
        "matcher_tree": {
            "input": _looked_at("header", ":path"),
            "prefix_match_map": {
                "map": {"/a": ALLOWED, "/admin": {"matcher": _first((_value("header", "x-role", exact="x"), DENIED))}}
            },
        }
    },
    _first((_by_input_matcher(ROLE, "ip.v3.Ip", stat_prefix="a", cidr_ranges=[TEN]), ALLOWED)),
    _first((_by_input_matcher(USER, "consistent_hashing.v3.ConsistentHashing", threshold=9, modulo=40), ALLOWED)),
    _first((_by_input_matcher(USER, "consistent_hashing.v3.ConsistentHashing", modulo=2, threshold=1, seed=7), DENIED)),
    _first((_by_input_matcher(USER, "runtime_fraction.v3.RuntimeFraction", runtime_fraction=HALF), ALLOWED)),
    _first((_by_input_matcher(USER, "runtime_fraction.v3.RuntimeFraction", runtime_fraction=HALF, seed=9), ALLOWED)),
    _first((_by_input_matcher(_metadata("payload", "sub"), "metadata.v3.Metadata", value=IS_S1), ALLOWED)),
    _first((_by_input_matcher(_metadata("payload", "no"), "metadata.v3.Metadata", value=IS_S1, invert=True), ALLOWED)),
    _first(({"single_predicate": {"input": _metadata("payload", "sub"), "value_match": {"exact": "s1"}}}, ALLOWED)),
    _first((_cel("request.method == 'GET'"), ALLOWED)),
    _first((_cel("request.headers['x-role'] == 'adm'"), DENIED), on_no_match=ALLOWED),
    _by_address(ROLE, _range(ALLOWED, "10.0.0.0/8"), _range(DENIED, "10.1.0.0/16", "10.3.0.0/16")),
    _by_address(ROLE, _range(ALLOWED, "10.0.0.0/8"), _range(IF_ADMIN, "10.1.0.0/16")),
    _by_address(ROLE, _range(ALLOWED, "10.0.0.0/8", exclusive=True), _range(IF_ADMIN, "10.1.0.0/16")),
    _by_address(ROLE, _range(IF_ADMIN, "10.1.0.0/16", exclusive=True), on_no_match=ALLOWED),
    _by_address(ROLE, _range(IF_ADMIN, "10.1.0.0/16"), _range(DENIED, "10.1.0.0/16"), _range(ALLOWED, "0.0.0.0/0")),
    _by_address(ROLE, _range(ALLOWED, "10.1.0.0/16"), _range(DENIED, "10.1.0.0/16"), on_no_match=ALLOWED),
    _by_address(_looked_at("network.v3.SourceIPInput"), _range(ALLOWED, "10.0.0.0/8"), on_no_match=DENIED),
    # Envoy refuses these, too: RBAC has not every input, nor may its matchers go on after an action.
    _first((ADMIN, {**DENIED, "keep_matching": True}), (ADMIN, ALLOWED)),
    _first(({"single_predicate": {"input": ATTRIBUTES, "value_match": {"exact": "x"}}}, ALLOWED)),
    _first((_by_input_matcher(ATTRIBUTES, "ip.v3.Ip", stat_prefix="a", cidr_ranges=[TEN]), ALLOWED)),
    _first((_by(USER, "xds.type.matcher.v3.CelMatcher", expr_match={"parsed_expr": {"expr": TRUE}}), ALLOWED)),
    _first((_value("query", "token", exact="x"), ALLOWED)),
    _first((_value("network.v3.TransportProtocolInput", "", exact="tls"), ALLOWED)),
]
REFUSED = 6


@pytest.mark.parametrize("number", range(len(MATCHERS)))
def test_each_matcher_tree_decides_as_envoys_does(bench: Bench, number: int) -> None:
    asked = [
        Request(method, host, target, headers)
        for method in ("GET", "DELETE")
        for host, target in (("a.com", "/admin?token=x"), ("other", "/b"), ("a.com:80", "/a"))
        for headers in ((), (("x-user", "admin"), ("x-role", "adm")), (("x-user", "adam"), ("x-role", "x")))
    ]
    asked += [
        Request("GET", "a.com", f"/ruled?access_token={TOKENS[token]}", (("x-user", user), ("x-role", address)))
        for token in ("one", "one again")
        for user in ("admin", "10.1.2.3", "b")
        for address in ("10.1.2.3", "10.2.0.1", "10.3.0.1", "192.168.0.1", "::1", "junk")
    ]
    host = ruled({"matcher": MATCHERS[number], "rules": {"action": "DENY"}})
    before = bench.decisions
    assert bench.differences("plain", {"virtual_hosts": [host]}, asked) == []
    assert bench.decisions - before == (len(asked) if number < len(MATCHERS) - REFUSED else 0)


def test_an_input_that_is_not_known_refuses_the_policy(bench: Bench) -> None:
    host = ruled({"matcher": MATCHERS[-1]})
    message = json_format.ParseDict({"virtual_hosts": [host]}, route_pb2.RouteConfiguration(name="policies"))
    with pytest.raises(ResourceError, match="TransportProtocolInput is an input that meshsdk does not know"):
        server_listener(bench.options["plain"], message)
