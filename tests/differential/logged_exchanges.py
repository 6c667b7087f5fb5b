"""Exchanges whose access log lines are compared: the real Envoy as a client's proxy, and an httpx client on the mesh.

Both have the same connection manager with the same access logs. An exchange is chosen by chance: a route (retries,
timeouts, faults, rewrites, answers of its own), a method, a body, headers, and what the upstream does.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

import meshsdk
from meshsdk.access_log import ISTIO_JSON, ISTIO_TEXT

from ..patience import PATIENCE
from ..processes import envoy, free_ports
from .subjects import Answer, Received, Upstream, cluster

__all__ = [
    "LOGS",
    "SERVER_FILTERS",
    "SERVER_LOGS",
    "SERVER_ROUTES",
    "Exchange",
    "answer_to",
    "exchanges",
    "lines_of",
    "make_manager",
    "make_server_logs",
    "run_on_the_mesh",
    "run_through_envoy",
    "running_upstream",
    "send_all",
    "server_exchanges",
]

_TYPE = "type.googleapis.com/envoy"
HOST = "subject.test"

WIDE = (
    "%REQ(X-CASE)% %REQ(:METHOD)% %REQ(:PATH)% %REQ(X-ENVOY-ORIGINAL-PATH)% %PROTOCOL% %RESPONSE_CODE%"
    " %RESPONSE_FLAGS% %RESPONSE_FLAGS_LONG% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS%"
    " %UPSTREAM_TRANSPORT_FAILURE_REASON% in=%BYTES_RECEIVED% out=%BYTES_SENT% %REQ(:AUTHORITY)% %REQ(USER-AGENT)%"
    " %REQ(X-FORWARDED-FOR)% %UPSTREAM_HOST% %UPSTREAM_CLUSTER% %UPSTREAM_CLUSTER_RAW% route=%ROUTE_NAME%"
    " attempts=%UPSTREAM_REQUEST_ATTEMPT_COUNT% grpc=%GRPC_STATUS% %GRPC_STATUS(SNAKE_STRING)% %GRPC_STATUS_NUMBER%"
    " [%REQ(X-ODD):20%] [%REQ(X-ADDED?X-ODD)%] [%RESP(X-UP)%] [%RESP(X-CHANGED)%] [%RESP(CONTENT-TYPE):4%]"
    " [%TRAILER(X)%] %REQ_WITHOUT_QUERY(:PATH)% %ACCESS_LOG_TYPE% %QUERY_PARAM(a)% %PATH(NQ:PATH)% 100%%\n"
)
JSON = {
    **ISTIO_JSON,
    "case": "%REQ(X-CASE)%",
    "nested": {"odd": "%REQ(X-ODD)%", "both": "%REQ(X-ODD)% and %RESPONSE_CODE%", "list": [1, 2.5, True, None, "text"]},
    "cut": "%REQ(USER-AGENT):4%",
    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "grpc": "%GRPC_STATUS_NUMBER%",
    "grpc_name": "%GRPC_STATUS%",
    "percent": "100%%",
    "empty": "",
}


def _log(path: str, log_format: dict[str, Any], chosen: dict[str, Any] | None = None) -> dict[str, Any]:
    config = {"@type": f"{_TYPE}.extensions.access_loggers.file.v3.FileAccessLog", "path": path}
    log: dict[str, Any] = {"name": "file", "typed_config": {**config, "log_format": log_format}}
    return log if chosen is None else {**log, "filter": chosen}


def _text(text: str) -> dict[str, Any]:
    formatter = {
        "name": "envoy.formatter.req_without_query",
        "typed_config": {"@type": f"{_TYPE}.extensions.formatter.req_without_query.v3.ReqWithoutQuery"},
    }
    return {"text_format_source": {"inline_string": text}, "formatters": [formatter]}


def _compared(kind: str, operation: str, value: int) -> dict[str, Any]:
    return {kind: {"comparison": {"op": operation, "value": {"default_value": value, "runtime_key": "x"}}}}


def _share(key: str, percent: int) -> dict[str, Any]:
    return {"runtime_filter": {"runtime_key": key, "percent_sampled": {"numerator": percent}}}


_ID = "%REQ(X-CASE)%\n"

# What is written, by file.
LOGS: dict[str, tuple[dict[str, Any], dict[str, Any] | None]] = {
    "wide": (_text(WIDE), None),
    "istio": (_text(f"%REQ(X-CASE)% {ISTIO_TEXT}"), None),
    "empty": ({**_text(f"%REQ(X-CASE)% {WIDE}"), "omit_empty_values": True}, None),
    "json": ({"json_format": JSON}, None),
    "json-empty": (
        {"json_format": JSON, "omit_empty_values": True},
        None,
    ),
    "errors": (_text(_ID), _compared("status_code_filter", "GE", 500)),
    "not-200": (_text(_ID), _compared("status_code_filter", "NE", 200)),
    "slow": (_text(_ID), _compared("duration_filter", "GE", 80)),
    "flagged": (_text(_ID), {"response_flag_filter": {}}),
    "timed-out": (_text(_ID), {"response_flag_filter": {"flags": ["UT", "URX"]}}),
    "some-header": (
        _text(_ID),
        {"header_filter": {"header": {"name": "x-odd", "string_match": {"contains": "a"}}}},
    ),
    "both": (
        _text(_ID),
        {
            "and_filter": {
                "filters": [
                    _compared("status_code_filter", "GE", 400),
                    {"or_filter": {"filters": [{"response_flag_filter": {"flags": ["NR", "NC"]}}, _share("y", 50)]}},
                    {"not_health_check_filter": {}},
                ]
            }
        },
    ),
    "sampled": (_text(_ID), _share("z", 30)),
    "ends": (_text(_ID), {"log_type_filter": {"types": ["DownstreamEnd"]}}),
    "periodic": (_text(_ID), {"log_type_filter": {"types": ["DownstreamPeriodic"], "exclude": True}}),
    "grpc": (_text(_ID), {"grpc_status_filter": {"statuses": ["UNAVAILABLE", "OK"]}}),
    "not-grpc": (_text(_ID), {"grpc_status_filter": {"statuses": ["UNAVAILABLE", "OK"], "exclude": True}}),
}  # fmt: skip

_HTTP = "type.googleapis.com/envoy.extensions.filters.http"


def _fault(**fields: Any) -> dict[str, Any]:
    return {"typed_per_filter_config": {"fault": {"@type": f"{_HTTP}.fault.v3.HTTPFault", **fields}}}


_ALWAYS = {"numerator": 100}
_A_MOMENT = {"fixed_delay": "0.1s", "percentage": _ALWAYS}


def _retrying(on: str, **fields: Any) -> dict[str, Any]:
    back_off = {"base_interval": "0.005s", "max_interval": "0.01s"}
    return {"cluster": "c", "retry_policy": {"retry_on": on, "num_retries": 2, "retry_back_off": back_off, **fields}}


def _added(key: str, name: str, value: str) -> dict[str, Any]:
    return {key: [{"header": {"key": name, "value": value}}]}


# Routes by the first segment of the path.
ROUTES: dict[str, dict[str, Any]] = {
    "plain": {"route": {"cluster": "c"}},
    "rewritten": {"route": {"cluster": "c", "prefix_rewrite": "/deeper/"}},
    "hosted": {"route": {"cluster": "c", "host_rewrite_literal": "other.test"}},
    "added": {
        "route": {"cluster": "c"},
        **_added("request_headers_to_add", "x-added", "by %REQ(:METHOD)%"),
        **_added("response_headers_to_add", "x-changed", "%RESPONSE_CODE%"),
    },
    "direct": {"direct_response": {"status": 418, "body": {"inline_string": "short and stout"}}},
    "nothing": {"direct_response": {"status": 204}},
    "moved": {"redirect": {"path_redirect": "/plain/x"}},
    "gone": {"route": {"cluster": "nowhere"}},
    "empty": {"route": {"cluster": "empty"}},
    "refused": {"route": {"cluster": "refused"}},
    "refused-often": {"route": {**_retrying("connect-failure"), "cluster": "refused"}},
    "retried": {"route": _retrying("5xx")},
    "reset-often": {"route": _retrying("reset")},
    "short": {"route": {"cluster": "c", "timeout": "0.4s"}},
    "short-tries": {"route": _retrying("5xx", per_try_timeout="0.4s")},
    "idle": {"route": {"cluster": "c", "idle_timeout": "0.4s"}},
    "stream": {"route": {"cluster": "c", "max_stream_duration": {"max_stream_duration": "0.4s"}}},
    "aborted": {"route": {"cluster": "c"}, **_fault(abort={"http_status": 503, "percentage": _ALWAYS})},
    "aborted-grpc": {"route": {"cluster": "c"}, **_fault(abort={"grpc_status": 7, "percentage": _ALWAYS})},
    "delayed": {"route": {"cluster": "c"}, **_fault(delay=_A_MOMENT)},
    "delayed-refused": {"route": {"cluster": "refused"}, **_fault(delay=_A_MOMENT)},
    "unwanted": {"direct_response": {"status": 200}, **_fault(abort={"http_status": 429, "percentage": _ALWAYS})},
}  # fmt: skip

UPSTREAM_DOES = (
    "200",
    "200",
    "200",
    "404",
    "503",
    "204",
    "big",
    "chunked",
    "slow",
    "reset",
    "flaky",
    "half",
    "garbage",
)
_SLOW_SECONDS = 1.0


@dataclass
class Exchange:
    """One request, and what becomes of it upstream."""

    case: str
    method: str
    target: str
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


ODD_VALUES = (
    "a",
    "",
    "with space",
    'q"uote',
    "back\\slash",
    "ümlaut".encode().decode("latin-1"),
    "tab\there",
    "%5B",
    "x" * 64,
)


def exchanges(seed: int, count: int) -> list[Exchange]:
    """So many, the same for the same seed."""
    chance = random.Random(seed)
    made = []
    for number in range(count):
        route = chance.choice([*ROUTES, "nowhere"])
        does = chance.choice(UPSTREAM_DOES)
        method = chance.choice(["GET", "GET", "POST", "PUT", "HEAD", "DELETE"])
        if does in ("reset", "flaky"):
            # Others are sent again over another connection, which Envoy does not do.
            method = "POST"
        query = chance.choice(["", "?a=1", "?b&a=%20x", "?"])
        headers = {"x-do": does, "x-forwarded-for": "10.0.0.1"}
        if chance.random() < 0.5:
            headers["x-odd"] = chance.choice(ODD_VALUES)
        if chance.random() < 0.5:
            headers["x-request-id"] = f"{chance.getrandbits(32):08x}-1111-4111-8111-{number:012x}"
        if chance.random() < 0.15:
            headers["x-envoy-retry-on"] = "5xx"
        if chance.random() < 0.1:
            headers["x-envoy-upstream-rq-timeout-ms"] = "500"
        body = b""
        if method in ("POST", "PUT"):
            body = b"x" * chance.choice([0, 1, 1000, 70_000])
            if chance.random() < 0.3:
                headers["content-type"], body = "application/grpc", b"\0\0\0\0\0"
        made.append(Exchange(f"{seed}-{number}", method, f"/{route}/{number}{query}", headers, body))
    return made


# What a server has: filters that refuse by headers, and routes of all kinds.
SERVER_FILTERS: list[dict[str, Any]] = [
    {
        "name": "rbac",
        "typed_config": {
            "@type": f"{_HTTP}.rbac.v3.RBAC",
            "rules": {
                "action": "DENY",
                "policies": {
                    "ns[default]-policy[no x]-rule[0]": {
                        "permissions": [{"header": {"name": "x-denied", "present_match": True}}],
                        "principals": [{"any": True}],
                    }
                },
            },
        },
    },
    {"name": "fault", "typed_config": {"@type": f"{_HTTP}.fault.v3.HTTPFault"}},
]
SERVER_ROUTES: list[dict[str, Any]] = [
    {"match": {"prefix": f"/{name}/"}, "name": f"r-{name}", **route}
    for name, route in {
        "plain": {"route": {"cluster": "app"}},
        "rewritten": {"route": {"cluster": "app", "prefix_rewrite": "/deeper/"}},
        "added": {
            "route": {"cluster": "app"},
            **_added("request_headers_to_add", "x-added", "by %REQ(:METHOD)%"),
            **_added("response_headers_to_add", "x-changed", "%RESPONSE_CODE%"),
        },
        "direct": {"direct_response": {"status": 418, "body": {"inline_string": "short and stout"}}},
        "moved": {"redirect": {"path_redirect": "/plain/x"}},
    }.items()
]
SERVER_LOGS = ("wide", "istio", "empty", "json", "json-empty", "errors", "not-200", "flagged", "some-header", "sampled")


def make_server_logs(folder: Path) -> list[dict[str, Any]]:
    """The access logs of a server, in a folder."""
    return [_log(str(folder / f"{name}.log"), *LOGS[name]) for name in SERVER_LOGS]


def server_exchanges(seed: int, count: int) -> list[Exchange]:
    """So many that come to a server, the same for the same seed."""
    chance = random.Random(seed)
    made = []
    for number, one in enumerate(exchanges(seed, count)):
        route = chance.choice(["plain", "plain", "rewritten", "added", "direct", "moved", "nowhere"])
        headers = {name: value for name, value in one.headers.items() if not name.startswith("x-envoy")}
        headers["x-do"] = chance.choice(["200", "404", "503", "204", "big"])
        headers["x-forwarded-for"] = chance.choice(["10.0.0.1", "10.0.0.1, 192.0.2.7"])
        if chance.random() < 0.2:
            headers["x-denied"] = "yes"
        query = one.target.partition("?")[2]
        target = f"/{route}/{number}{'?' if '?' in one.target else ''}{query}"
        # The plain upstream answers HEAD with a body.
        method = "GET" if one.method == "HEAD" else one.method
        made.append(Exchange(one.case, method, target, headers, one.body))
    return made


class LoggedUpstream(Upstream):
    """Does what the header x-do says."""

    def __init__(self) -> None:
        super().__init__(answer_to)
        self._tries: dict[str, int] = {}

    def _answer(self, connection: socket.socket, request: Received) -> bool:
        does = request.headers.get("x-do", "200")
        if does == "chunked":
            connection.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nx-up: 1\r\n\r\n")
            if request.method != "HEAD":
                connection.sendall(b"5\r\nfirst\r\n6\r\nsecond\r\n0\r\n\r\n")
            return True
        if does == "half":
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")
            return False
        if does == "garbage":
            connection.sendall(b"!\x01not http at all\r\n\r\n")
            return False
        if does == "flaky":
            case = request.headers["x-case"]
            tries = self._tries[case] = self._tries.get(case, 0) + 1
            if tries == 1:
                return False
        if request.method == "HEAD":
            answer = self.handler(request, 0)
            connection.sendall(f"HTTP/1.1 {answer.status} X\r\ncontent-length: {len(answer.body)}\r\n\r\n".encode())
            return not answer.reset
        return super()._answer(connection, request)


def answer_to(request: Received, number: int) -> Answer:
    does = request.headers.get("x-do", "200")
    if does == "slow":
        return Answer(delay=_SLOW_SECONDS)
    if does == "reset":
        return Answer(reset=True)
    if does == "big":
        return Answer(body=b"y" * 200_000, headers={"content-type": "text/html"})
    if does == "204":
        return Answer(204, body=b"", headers={"x-up": "nothing"})
    if does.isdecimal():
        return Answer(int(does), headers={"x-up": "said " + does, "content-type": "text/plain"})
    return Answer()


def make_clusters(upstream: Upstream, refused: int) -> list[dict[str, Any]]:
    """What routes lead to."""
    many = {"circuit_breakers": {"thresholds": [{"max_retries": 1000}]}}  # They are sent side by side.
    return [cluster("c", upstream.port, **many), cluster("refused", refused, **many), cluster("empty")]


def make_manager(folder: Path) -> dict[str, Any]:
    """The connection manager, whose access logs go to a folder."""
    routes: list[dict[str, Any]] = [
        {"match": {"prefix": f"/{name}/"}, "name": f"r-{name}", **route} for name, route in ROUTES.items()
    ]
    configuration = {
        "name": "routes",
        "validate_clusters": False,
        "virtual_hosts": [{"name": "v", "domains": [HOST], "routes": routes}],
    }
    return {
        "@type": f"{_TYPE}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "subject",
        "route_config": configuration,
        "http_filters": [
            {"name": "fault", "typed_config": {"@type": f"{_HTTP}.fault.v3.HTTPFault"}},
            {"name": "router", "typed_config": {"@type": f"{_HTTP}.router.v3.Router"}},
        ],
        "internal_address_config": {"cidr_ranges": [{"address_prefix": "10.0.0.0", "prefix_len": 8}]},
        "access_log": [_log(str(folder / f"{name}.log"), *how) for name, how in LOGS.items()],
    }


def _send(client: httpx.Client, base: str, host: dict[str, str], exchange: Exchange) -> None:
    headers = [*host.items(), ("x-case", exchange.case), *exchange.headers.items()]
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    with contextlib.suppress(httpx.TransportError):
        client.request(exchange.method, f"{base}{exchange.target}", headers=raw, content=exchange.body or None)


def send_all(client: httpx.Client, base: str, host: dict[str, str], every: Sequence[Exchange]) -> None:
    """Send exchanges, several at once."""
    _send(client, base, host, Exchange("first", "GET", "/plain/"))  # What takes its time at first must not count.
    with ThreadPoolExecutor(12) as threads:
        list(threads.map(lambda one: _send(client, base, host, one), every))


def run_through_envoy(folder: Path, every: Sequence[Exchange], clusters: list[dict[str, Any]]) -> None:
    """Send exchanges through the real Envoy, whose logs are whole when it has ended."""
    folder.mkdir()
    [port] = free_ports(1)
    listener = {
        "name": "subject",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{"filters": [{"name": "manager", "typed_config": make_manager(folder)}]}],
    }
    config = {
        "node": {"id": "subject", "cluster": "subject"},
        "static_resources": {"listeners": [listener], "clusters": clusters},
    }
    with envoy(config, [port], folder), httpx.Client(timeout=PATIENCE) as client:
        send_all(client, f"http://127.0.0.1:{port}", {"host": HOST}, every)


def run_on_the_mesh(folder: Path, every: Sequence[Exchange], clusters: list[dict[str, Any]]) -> None:
    """Send exchanges by a client on the mesh."""
    (folder / "mesh").mkdir(parents=True)
    documents: list[dict[str, Any]] = [{"@type": f"{_TYPE}.config.cluster.v3.Cluster", **one} for one in clusters]
    documents.append(
        {
            "@type": f"{_TYPE}.config.listener.v3.Listener",
            "name": HOST,
            "api_listener": {"api_listener": make_manager(folder)},
        }
    )
    for index, document in enumerate(documents):
        (folder / "mesh" / f"{index}.json").write_text(json.dumps(document))
    with meshsdk.Mesh(config=folder / "mesh") as mesh, mesh.client(timeout=PATIENCE) as client:
        mesh.wait_ready(HOST)
        send_all(client, f"http://{HOST}", {}, every)


def lines_of(folder: Path, name: str) -> dict[str, str]:
    """The lines of a log by their exchanges, without what differs from one run to the next."""
    path = folder / f"{name}.log"
    data = path.read_bytes().decode("utf-8", "backslashreplace") if path.exists() else ""
    lines = {}
    for line in data.split("\n"):
        if line:
            case = json.loads(line)["case"] if line.startswith("{") else line.split(" ", 1)[0]
            assert case not in lines, f"{name} has {case} twice"
            lines[case] = _without_accidents(line)
    return lines


def _without_accidents(line: str) -> str:
    if line.startswith("{"):
        for key in ("duration", "upstream_service_time", "start_time"):
            line = re.sub(rf'"{key}":"?[0-9TZ:.-]+"?', f'"{key}":0', line)
        line = re.sub(r'"(downstream_\w+_address|upstream_local_address|request_id)":("[^"]*"|null)', r'"\1":0', line)
        return re.sub(r'"(downstream_\w+_address|upstream_local_address|request_id)":0,?', "", line)
    match = _ISTIO_LINE.match(line)
    if match is None:
        return line
    parts = match.groupdict()
    took = "-" if parts["took"] == "-" else "0"
    return (
        f"{parts['case']} {parts['first']} {parts['sizes']} 0 {took} {parts['quoted']} {parts['host']} {parts['last']}"
    )


_ISTIO_LINE = re.compile(
    r'(?P<case>\S+) \[[^\]]+\] (?P<first>.*) (?P<sizes>\d+ \d+) \d+ (?P<took>\S+) (?P<quoted>"[^"]*" "\S+") "\S+"'
    r' (?P<host>"\S+" "\S+" \S+) \S+ \S+ \S+ (?P<last>\S+ \S+)$'
)


@contextlib.contextmanager
def running_upstream() -> Iterator[list[dict[str, Any]]]:
    """The upstream, and the clusters that lead there."""
    with LoggedUpstream() as upstream:
        yield make_clusters(upstream, free_ports(1)[0])
