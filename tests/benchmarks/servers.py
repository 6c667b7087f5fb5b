"""What inbound policy costs: a FastAPI and a Flask request with an identity, 20 RBAC rules and a span, over bare ones;
and `mesh.serve` with mutual TLS against a real Envoy that does the same in front of the same application.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flask
from fastapi import FastAPI
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import Sampler, SamplingResult, TraceIdRatioBased

import meshsdk
from meshsdk.identities import FileIdentity
from meshsdk.inbound import Connection
from meshsdk.security import read_peer
from meshsdk.server.asgi import AsgiMiddleware
from meshsdk.server.connections import CONNECTION
from meshsdk.server.serve import make_server
from meshsdk.server.wsgi import WsgiMiddleware
from tests.certificates import SpiffeCa, spiffe, write_identity
from tests.processes import envoy, free_ports, wait_for_port

__all__ = ["measure"]

ROOT = Path(__file__).parent.parent.parent
PORT = 8080
_HTTP = "type.googleapis.com/envoy.extensions.filters"
_TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3"


class _Share(Sampler):
    """Samples a share of the traces that can be changed.

    Attributes:
        share: Between 0 and 1.
    """

    share = 1.0

    def should_sample(self, parent_context: Any, trace_id: int, *arguments: Any, **options: Any) -> SamplingResult:
        """See Sampler."""
        return TraceIdRatioBased(self.share).should_sample(parent_context, trace_id, *arguments, **options)

    def get_description(self) -> str:
        """See Sampler."""
        return "share"


# Istio samples one trace in a hundred (MeshConfig, defaultConfig.tracing.sampling).
ISTIOS_SHARE = 0.01


class _Nowhere(SpanExporter):
    """Spans are made and batched, and go nowhere."""

    def export(self, spans: Any) -> SpanExportResult:
        """See SpanExporter."""
        return SpanExportResult.SUCCESS


def _rules() -> str:
    """Twenty rules, of which the last one lets the caller in."""
    others = "".join(
        f"- {{from: [{{source: {{principals: [cluster.local/ns/n{number}/sa/s]}}}}],"
        f" to: [{{operation: {{paths: [/p{number}/*], methods: [GET]}}}}]}}\n"
        for number in range(19)
    )
    return (
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a}\nspec:\n  rules:\n"
        + "".join(f"  {line}\n" for line in others.splitlines())
        + "  - {from: [{source: {principals: [cluster.local/ns/default/sa/client]}}]}\n"
    )


def _medians(bare: Callable[[], None], wrapped: Callable[[], None], rounds: int = 21, calls: int = 300) -> float:
    """How much longer a call takes, in microseconds: the median of rounds that alternate."""
    added = []
    for _ in range(rounds):
        seconds = []
        for call in (bare, wrapped):
            began = time.perf_counter()
            for _ in range(calls):
                call()
            seconds.append((time.perf_counter() - began) / calls)
        added.append((seconds[1] - seconds[0]) * 1e6)
    return statistics.median(added)


def _connection() -> Connection:
    pair = SpiffeCa().issue(spiffe("client"))
    der = ssl.PEM_cert_to_DER_cert(pair[1].decode())
    return Connection(True, read_peer(der), "127.0.0.1", 4711, "127.0.0.1", PORT, is_watched=True)


def _only_a_span(app: Any) -> Any:
    """The least that any middleware that traces does: what is left of a figure is ours."""
    tracer = trace.get_tracer("bench")
    known = {"http.request.method": "GET", "url.scheme": "https", "url.path": "/items/7", "client.address": "127.0.0.1"}

    async def traced(scope: Any, receive: Any, send: Any) -> None:
        with tracer.start_as_current_span("GET", kind=trace.SpanKind.SERVER, attributes=known) as span:
            await app(scope, receive, send)
            span.set_attribute("http.response.status_code", 200)

    return traced


def _asgi_cost(wrap: Callable[[Any], Any], connection: Connection) -> float:
    # Its own spans would be in both figures, and cost more than all else.
    app = FastAPI(telemetry={"tracing": False, "metrics": False, "logs": False})

    @app.get("/items/{item}")
    async def items(item: int) -> dict[str, int]:
        return {"item": item}

    wrapped = wrap(app)
    loop = asyncio.new_event_loop()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        assert message.get("status", 200) == 200

    def call(target: Any) -> Callable[[], None]:
        def one() -> None:
            scope = {
                "type": "http",
                "method": "GET",
                "scheme": "https",
                "path": "/items/7",
                "raw_path": b"/items/7",
                "query_string": b"",
                "headers": [(b"host", b"web"), (b"accept", b"*/*"), (b"user-agent", b"bench")],
                "client": ("127.0.0.1", 4711),
                "server": ("127.0.0.1", PORT),
                CONNECTION: connection,
            }
            loop.run_until_complete(target(scope, receive, send))

        return one

    value = _medians(call(app), call(wrapped))
    loop.close()
    return value


def _must_be_ok(status: str, headers: Any, *_: Any) -> None:
    assert status.startswith("200")


def _wsgi_cost(mesh: meshsdk.Mesh, connection: Connection) -> float:
    app = flask.Flask("bench")

    @app.get("/items/<int:item>")
    def items(item: int) -> dict[str, int]:
        return {"item": item}

    wrapped = WsgiMiddleware(app.wsgi_app, mesh=mesh, port=PORT)

    def call(target: Any) -> Callable[[], None]:
        def one() -> None:
            environ = {
                "REQUEST_METHOD": "GET",
                "PATH_INFO": "/items/7",
                "SCRIPT_NAME": "",
                "QUERY_STRING": "",
                "SERVER_NAME": "127.0.0.1",
                "SERVER_PORT": str(PORT),
                "SERVER_PROTOCOL": "HTTP/1.1",
                "HTTP_HOST": "web",
                "HTTP_ACCEPT": "*/*",
                "wsgi.url_scheme": "https",
                "wsgi.input": None,
                "wsgi.errors": sys.stderr,
                CONNECTION: connection,
            }
            response = target(environ, _must_be_ok)
            for _ in response:
                pass
            response.close()

        return one

    return _medians(call(app.wsgi_app), call(wrapped))


def _bare_app(port: int) -> None:
    """The application behind the sidecar, in a process of its own."""
    import uvicorn

    uvicorn.run(_make_app(), host="127.0.0.1", port=port, log_level="critical")


def _make_app() -> FastAPI:
    app = FastAPI()

    @app.get("/items/{item}")
    async def items(item: int) -> dict[str, int]:
        return {"item": item}

    return app


def _meshed_app(folder: Path, port: int) -> None:
    """The application on the mesh, in a process of its own."""
    place = folder / "server"
    identity = FileIdentity(place / "cert.pem", place / "key.pem", place / "roots.pem")
    with meshsdk.Mesh(config=folder / "mesh", identity=identity) as mesh:
        make_server(_make_app(), mesh, port, host="127.0.0.1", log_level="critical").run()


@contextlib.contextmanager
def _process(*arguments: object, port: int) -> Iterator[None]:
    command = [sys.executable, "-m", "tests.benchmarks.servers", *map(str, arguments)]
    running = subprocess.Popen(command, cwd=ROOT)
    try:
        wait_for_port(port)
        yield
    finally:
        running.terminate()
        running.wait(10)


def _sidecar(folder: Path, port: int, upstream: int) -> dict[str, object]:
    """An Envoy with mutual TLS and the same twenty rules."""
    policies = {
        f"p{number}": {
            "permissions": [{"and_rules": {"rules": [{"url_path": {"path": {"prefix": f"/p{number}/"}}}, _is_get()]}}],
            "principals": [_principal(f"n{number}", "s")],
        }
        for number in range(19)
    }
    policies["z"] = {"permissions": [{"any": True}], "principals": [_principal("default", "client")]}
    manager = {
        "@type": f"{_HTTP}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "route_config": {
            "virtual_hosts": [
                {"name": "v", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "app"}}]}
            ]
        },
        "http_filters": [
            {"name": "rbac", "typed_config": {"@type": f"{_HTTP}.http.rbac.v3.RBAC", "rules": {"policies": policies}}},
            {"name": "router", "typed_config": {"@type": f"{_HTTP}.http.router.v3.Router"}},
        ],
    }
    place = folder / "server"
    context = {
        "@type": f"{_TLS}.DownstreamTlsContext",
        "require_client_certificate": True,
        "common_tls_context": {
            "tls_certificates": [
                {
                    "certificate_chain": {"filename": str(place / "cert.pem")},
                    "private_key": {"filename": str(place / "key.pem")},
                }
            ],
            "validation_context": {"trusted_ca": {"filename": str(place / "roots.pem")}},
        },
    }
    endpoint = {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": upstream}}}}
    return {
        "node": {"id": "sidecar", "cluster": "sidecar"},
        "static_resources": {
            "listeners": [
                {
                    "name": "in",
                    "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
                    "filter_chains": [
                        {
                            "filters": [{"name": "http", "typed_config": manager}],
                            "transport_socket": {"name": "tls", "typed_config": context},
                        }
                    ],
                }
            ],
            "clusters": [
                {
                    "name": "app",
                    "type": "STATIC",
                    "load_assignment": {"cluster_name": "app", "endpoints": [{"lb_endpoints": [endpoint]}]},
                }
            ],
        },
    }


def _is_get() -> dict[str, Any]:
    return {"header": {"name": ":method", "string_match": {"exact": "GET"}}}


def _principal(namespace: str, account: str) -> dict[str, Any]:
    name = f"spiffe://cluster.local/ns/{namespace}/sa/{account}"
    return {"authenticated": {"principal_name": {"exact": name}}}


_REQUEST = b"GET /items/7 HTTP/1.1\r\nhost: 127.0.0.1\r\naccept: */*\r\n\r\n"


def _load(folder: Path, port: int, seconds: float = 1.5, threads: int = 4) -> tuple[float, float]:
    """Requests a second and the median latency in milliseconds, by connections that are kept.

    The client takes as little of the machine as it can, so that the servers are what is measured.
    """
    place = folder / "client"
    context = ssl.create_default_context(cafile=str(place / "roots.pem"))
    context.check_hostname = False
    context.load_cert_chain(place / "cert.pem", place / "key.pem")
    latencies: list[float] = []
    until = time.perf_counter() + seconds

    def run() -> None:
        with context.wrap_socket(socket.create_connection(("127.0.0.1", port))) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while time.perf_counter() < until:
                began = time.perf_counter()
                connection.sendall(_REQUEST)
                answer = connection.recv(65536)
                while not answer.endswith(b"}"):
                    answer += connection.recv(65536)
                latencies.append(time.perf_counter() - began)
                assert answer.startswith(b"HTTP/1.1 200 "), answer

    workers = [threading.Thread(target=run) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return len(latencies) / seconds, statistics.median(latencies) * 1e3


@contextlib.contextmanager
def _on_cpus(cpus: set[int]) -> Iterator[None]:
    """Processes that are started within this block run on these."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _against_envoy(folder: Path, *, cpus: set[int]) -> dict[str, Any]:
    """`mesh.serve`, and the same application behind an Envoy, each on the same processors; the client has the others.

    One processor is what a small pod has; the sidecar takes its part of that.
    """
    everything = os.sched_getaffinity(0)
    ours, front, behind = free_ports(3)
    with contextlib.ExitStack() as running:
        with _on_cpus(cpus):
            running.enter_context(_process("meshed", folder, ours, port=ours))
            running.enter_context(_process("bare", behind, port=behind))
            running.enter_context(envoy(_sidecar(folder, front, behind), [front], folder))
        with _on_cpus(everything - cpus or everything):
            rounds = [(_load(folder, ours), _load(folder, front)) for _ in range(11)]
    return {
        "throughput": statistics.median(one[0] / other[0] for one, other in rounds),
        "p50_ms": [statistics.median(side[1] for side in sides) for sides in zip(*rounds, strict=True)],
        "requests_a_second": [statistics.median(side[0] for side in sides) for sides in zip(*rounds, strict=True)],
    }


def measure() -> dict[str, Any]:
    """Every figure of this file."""
    sampler = _Share()
    trace.set_tracer_provider(TracerProvider(sampler=sampler))
    provider = trace.get_tracer_provider()
    assert isinstance(provider, TracerProvider)
    provider.add_span_processor(BatchSpanProcessor(_Nowhere()))
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="meshsdk-bench-") as name:
        folder = Path(name)
        (folder / "mesh").mkdir()
        (folder / "mesh" / "mesh.yaml").write_text(_rules())
        connection = _connection()
        with meshsdk.Mesh(config=folder / "mesh") as mesh:
            mesh.inbound(PORT).wait_ready()
            figures["fastapi_us"] = _asgi_cost(lambda app: AsgiMiddleware(app, mesh=mesh, port=PORT), connection)
            figures["span_us"] = _asgi_cost(_only_a_span, connection)
            figures["flask_us"] = _wsgi_cost(mesh, connection)
            sampler.share = ISTIOS_SHARE
            figures["fastapi_sampled_us"] = _asgi_cost(
                lambda app: AsgiMiddleware(app, mesh=mesh, port=PORT), connection
            )
            figures["flask_sampled_us"] = _wsgi_cost(mesh, connection)
        ca = SpiffeCa()
        write_identity(folder / "server", ca.issue(spiffe("server")), ca.pem)
        write_identity(folder / "client", ca.issue(spiffe("client")), ca.pem)
        cpus = os.sched_getaffinity(0)
        figures["one_cpu"] = _against_envoy(folder, cpus={min(cpus)})
        figures["every_cpu"] = _against_envoy(folder, cpus=cpus)
    return figures


if __name__ == "__main__":
    if sys.argv[1:2] == ["bare"]:
        _bare_app(int(sys.argv[2]))
    elif sys.argv[1:2] == ["meshed"]:
        _meshed_app(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        print(json.dumps(measure()))
