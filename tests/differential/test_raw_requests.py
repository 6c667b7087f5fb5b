"""Requests as bytes, odd ones, to the real Envoy and to each of our servers: nobody gets in whom Envoy keeps out.

Each request goes over a connection of its own to Envoy, and to the same application behind mesh.serve (ASGI and WSGI),
behind uvicorn with the middleware, and behind gunicorn; all under the same policy. Whom Envoy keeps out, each of them
keeps out. Whom Envoy lets in, they let in too, but for oddities that docs/envoy-differences.md lists; and then the
application sees what Envoy's upstream sees.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import subprocess
import sys
import time
import urllib.parse
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2  # noqa: F401 - JSON names these in an Any
from envoy.extensions.filters.http.set_filter_state.v3 import set_filter_state_pb2  # noqa: F401
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.rbac.matchers.upstream_ip_port.v3 import upstream_ip_port_matcher_pb2  # noqa: F401
from google.protobuf import json_format
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

import meshsdk.inbound  # noqa: F401 - its filters' messages

from ..processes import CLEAN_ENVIRONMENT, free_ports, wait_for_port
from .compare import compare
from .generate_inbound import FILTERS, OPTIONS, make_request, policies
from .judge import Decision, EnvoyJudge, ManagerOptions, running_judge
from .odd_syntax import ODDITIES, Wire, make_wire
from .test_generated_routes import static_cluster
from .upstream import EchoUpstreams

REQUESTS_PER_CONFIGURATION = 60
AT_ONCE = 20
CONFIGURATIONS = int(os.environ.get("MESHSDK_DIFFERENTIAL_EXAMPLES", "185"))
SEED = int(os.environ.get("MESHSDK_DIFFERENTIAL_SEED", "1"))
SUBJECT = "tests.differential.raw_subject"
SERVERS = {
    "mesh.serve ASGI": [sys.executable, "-m", SUBJECT, "asgi"],
    "mesh.serve WSGI": [sys.executable, "-m", SUBJECT, "wsgi"],
    "uvicorn": [sys.executable, "-m", "uvicorn", f"{SUBJECT}:asgi_app", "--log-level", "critical", "--port", "{port}"],
    "gunicorn": [sys.executable, "-m", "gunicorn", f"{SUBJECT}:wsgi_app", "--log-level", "critical", "-b", "{address}"],
}


def listener_bytes(option: ManagerOptions, routes: route_pb2.RouteConfiguration) -> bytes:
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
    return message.SerializeToString()


@dataclass(frozen=True)
class Answer:
    """What a side said.

    Attributes:
        status: 0 where there was no answer.
        seen: What the application saw; None where it was not reached.
    """

    status: int
    seen: dict[str, Any] | None = field(default=None, compare=False)
    text: str = ""


def _read(raw: bytes) -> Answer:
    head, _, body = raw.partition(b"\r\n\r\n")
    if head.startswith(b"HTTP/1.1 100"):
        head, _, body = body.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 "):
        return Answer(0, text=repr(raw[:80]))
    seen = None
    if b'{"method": ' in body or b'{"cluster": ' in body:
        with contextlib.suppress(ValueError):
            seen = json.loads(body[body.index(b"{") : body.rindex(b"}") + 1])
    elif b"x-up-one" in head.lower():
        seen = {}  # An answer to HEAD.
    return Answer(int(head[9:12]), seen, raw[:300].decode("latin-1"))


class Side:
    """One server, and where it listens."""

    def __init__(self, name: str, address: tuple[str, int], control: Path | None = None) -> None:
        self.name = name
        self._address = address
        self._control = control
        self._stream: Any = None

    def connect(self) -> socket.socket:
        return socket.create_connection(self._address, 30)

    def configure(self, listener: bytes) -> str:
        """Put a policy in force; why it is refused, or nothing."""
        if self._stream is None:
            self._stream = _connected(str(self._control)).makefile("rwb")
        self._stream.write(b"%d\n" % len(listener) + listener)
        self._stream.flush()
        return str(self._stream.readline().decode().strip())


def _connected(path: str) -> socket.socket:
    """gunicorn listens before its worker has imported the application."""
    deadline = time.monotonic() + 60
    while True:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(60)
        try:
            connection.connect(path)
            return connection
        except OSError:
            connection.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def ask(sides: list[Side], requests: list[bytes]) -> list[list[Answer]]:
    """The same bytes to all sides, all at once, each over a connection of its own: the sides' answers by request."""
    received: dict[socket.socket, bytes] = {}
    for request in requests:
        for side in sides:
            connection = side.connect()
            with contextlib.suppress(OSError):
                connection.sendall(request)
            received[connection] = b""
    with selectors.DefaultSelector() as selector:
        for connection in received:
            selector.register(connection, selectors.EVENT_READ)
        deadline = time.monotonic() + 60
        while selector.get_map() and time.monotonic() < deadline:
            for key, _ in selector.select(1):
                connection = key.fileobj  # type: ignore[assignment]
                chunk = b""
                with contextlib.suppress(OSError):
                    chunk = connection.recv(1 << 18)
                received[connection] += chunk
                if not chunk or _is_whole(received[connection]):
                    selector.unregister(connection)
                    connection.close()
    answers = iter([_read(raw) for raw in received.values()])
    return [[next(answers) for _ in sides] for _ in requests]


def _is_whole(received: bytes) -> bool:
    """Envoy keeps a connection open for a while after it has refused one."""
    head, end, body = received.partition(b"\r\n\r\n")
    _, name, length = head.lower().partition(b"\r\ncontent-length: ")
    return bool(end and name) and len(body) >= int(length.partition(b"\r\n")[0])


class Bench:
    """All sides."""

    def __init__(self, judge: EnvoyJudge, options: list[ManagerOptions], ours: list[Side]) -> None:
        self.judge = judge
        self.ours = ours
        self.options = {one.name: one for one in options}
        self.envoys = {one.name: Side("Envoy", ("127.0.0.1", one.port)) for one in options}
        self.requests = 0
        self.statuses: Counter[int] = Counter()
        self.stricter: Counter[str] = Counter()

    def configure(self, option: str, configuration: dict[str, Any]) -> bool:
        """The same policy everywhere; False where it is none."""
        message = json_format.ParseDict(configuration, route_pb2.RouteConfiguration(name="raw"))
        packed = listener_bytes(self.options[option], message)
        problems = [side.configure(packed) for side in self.ours]
        return not any(problems) and self.judge.configure(option, message)

    def differences(self, option: str, wires: list[Wire]) -> list[str]:
        """Where a side does not do what Envoy does."""
        asked = ask([self.envoys[option], *self.ours], [wire.as_bytes() for wire in wires])
        self.requests += len(wires)
        found = []
        for wire, (envoy, *ours) in zip(wires, asked, strict=True):
            self.statuses[envoy.status] += 1
            for side, answer in zip(self.ours, ours, strict=True):
                problem = self._differs(wire, envoy, answer, side.name)
                if problem:
                    found.append(f"{side.name}: {problem}; {wire.oddities} {wire.as_bytes()[:600]!r}")
        return found

    def _differs(self, wire: Wire, envoy: Answer, ours: Answer, name: str) -> str:
        if name == "gunicorn" and {"many headers", "too many headers"} & {*wire.oddities}:
            return ""  # It has a limit of its own, and has dropped and joined some before they are counted here.
        if ours.seen is not None and envoy.seen is None:
            return f"LETS IN whom Envoy answers with {envoy.status} ({envoy.text!r})"
        if envoy.seen is None:
            return ""
        if ours.seen is None:
            if _is_refused_by_us_alone(wire) or name == "gunicorn":  # Whose parser is not ours to let in by.
                self.stricter.update(wire.oddities)
                return ""
            return f"keeps out, with {ours.status} ({ours.text!r}), whom Envoy lets in"
        if name == "gunicorn" and wire.has_header_twice:
            return ""  # CGI joins the two, of which Envoy's formats take the first.
        is_wsgi = "plain" in ours.seen
        lines = compare(_decision(envoy, is_wsgi), _decision(ours, is_wsgi)) if envoy.seen and ours.seen else []
        return "; ".join(lines)


def _is_refused_by_us_alone(wire: Wire) -> bool:
    """What docs/envoy-differences.md lists; our parser takes what follows an upgrade for another protocol."""
    return any(ODDITIES[one][1] for one in wire.oddities) or bool(wire.body and "an upgrade to h2c" in wire.oddities)


_COMPARED = ("x-user", "x-role", "x-gone", "host", "x-forwarded-client-cert", "cookie", "authorization", "x-payload")


def _decision(answer: Answer, is_wsgi: bool) -> Decision:
    """What an application sees, as far as it is compared. A WSGI environ holds one value a name, and a plain path."""
    seen = answer.seen or {}
    if "plain" in seen:
        target = f"{seen['plain']}?{seen['query']}"
    else:
        path, _, query = seen["target"].partition("?")
        target = f"{urllib.parse.unquote_to_bytes(path).decode('latin-1')}?{query}"
    headers: dict[str, list[str]] = {}
    for name, value in seen["headers"]:
        if name in _COMPARED:
            headers.setdefault(name, []).append(value)
    joined = {name: ",".join(values) for name, values in headers.items()}
    if is_wsgi:
        joined = {name: ",".join(filter(None, value.split(","))) for name, value in joined.items()}
    return Decision(answer.status, seen["method"], target, tuple(joined.items()))


@contextlib.contextmanager
def running(name: str, folder: Path) -> Iterator[Side]:
    """One of our servers."""
    [port] = free_ports(1)
    place = folder / name.replace(" ", "-")
    (place / "mesh").mkdir(parents=True)
    control = place / "control.sock"
    parts = {"{port}": str(port), "{address}": f"127.0.0.1:{port}"}
    command = [parts.get(part, part) for part in SERVERS[name]]
    root = str(Path(__file__).parents[2])
    environment = {
        **CLEAN_ENVIRONMENT,
        "MESHSDK_CONFIG": str(place / "mesh"),
        "SUBJECT_PORT": str(port),
        "SUBJECT_POLICIES": str(control),
        "PYTHONPATH": os.pathsep.join([root, str(Path(root, "integrations"))]),
    }
    with (place / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=root)
    try:
        wait_for_port(port, process, seconds=60)
        yield Side(name, ("127.0.0.1", port), control)
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("raw")
    with contextlib.ExitStack() as stack:
        upstreams = stack.enter_context(EchoUpstreams(folder, ["c0"]))
        configs = [static_cluster(name, path) for name, path in upstreams.paths.items()]
        options = [replace(one, port=port) for one, port in zip(OPTIONS, free_ports(len(OPTIONS)), strict=True)]
        judge = stack.enter_context(running_judge(folder, options, configs, FILTERS))
        ours = [stack.enter_context(running(name, folder)) for name in SERVERS]
        yield Bench(judge, options, ours)


@pytest.mark.timeout(900)
def test_nobody_gets_in_whom_envoy_keeps_out(bench: Bench) -> None:
    @seed(SEED)
    @settings(
        max_examples=CONFIGURATIONS,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate,),
    )
    @given(st.sampled_from([one.name for one in OPTIONS]), policies(), st.integers(0, 2**32))
    def decide(option: str, configuration: dict[str, Any], draw: int) -> None:
        rng = Random(draw)
        for level in (*configuration["virtual_hosts"], *configuration["virtual_hosts"][0]["routes"]):
            # Whom only one side lets in would take tokens from that side's bucket.
            level["typed_per_filter_config"].pop("limit", None)
        if not bench.configure(option, configuration):
            return
        for _ in range(REQUESTS_PER_CONFIGURATION // AT_ONCE):
            found = bench.differences(option, [make_wire(rng, make_request(rng)) for _ in range(AT_ONCE)])
            assert not found, "\n".join([*found, option, json.dumps(configuration, indent=1)])

    decide()
    print(f"\n{bench.requests} requests with seed {SEED}; statuses {dict(bench.statuses)}; stricter {bench.stricter}")
    assert bench.requests >= 10_000 or CONFIGURATIONS < 185


def test_each_oddity_is_met_as_docs_say(bench: Bench) -> None:
    """With a policy that lets everybody in: those that we alone refuse are those that are listed."""
    route = {"match": {"prefix": "/"}, "route": {"cluster": "c0"}}
    assert bench.configure("plain", {"virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [route]}]})
    rng, found = Random(SEED), []
    for name, (change, _) in ODDITIES.items():
        wires = [Wire("GET", "/admin", "a.com", oddities=[name]) for _ in range(12)]
        for wire in wires:
            change(rng, wire)
        found += bench.differences("plain", wires)
    assert not found, "\n".join(found)
