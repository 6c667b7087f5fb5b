"""Telemetry's metrics: labels that are added, changed and taken away, and metrics that are switched off."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from google.protobuf import any_pb2

from meshsdk.access_log.metric_tags import compile_tags
from meshsdk.controlplane.folder import load
from meshsdk.resources.istio_stats import METRICS, MetricTags, StatsConfig, parse_stats
from meshsdk.resources.notes import Notes
from meshsdk.telemetry.istio_metrics import MESSAGE_LABELS, REQUEST_LABELS

from ..conftest import service
from ..grpc.conftest import MakeClient
from ..server.grpc_servers import sync_grpc_server
from ..server.running import serving
from ..servers import EchoServer
from .applications import application, send, wsgi_application
from .scraping import REQUESTS, World

DURATION, SIZE = "istio_request_duration_milliseconds_count", "istio_request_bytes_count"


def telemetry(metrics: str, namespace: str = "default", name: str = "t", selector: str = "") -> str:
    chosen = f"selector: {{matchLabels: {selector}}}, " if selector else ""
    return (
        "---\napiVersion: telemetry.istio.io/v1\nkind: Telemetry\n"
        f"metadata: {{name: {name}, namespace: {namespace}}}\nspec: {{{chosen}metrics: {metrics}}}\n"
    )


def override(body: str) -> str:
    return f"[{{providers: [{{name: prometheus}}], overrides: [{{{body}}}]}}]"


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("make", [application, wsgi_application])
def test_tags_are_added_and_removed_on_both_sides(world: World, kind: str, make: Callable[[], Any]) -> None:
    tags = (
        "{request_method: {value: request.method}, tenant: {value: \"request.headers['X-Tenant']\"},"
        " destination_app: {operation: REMOVE}, source_version: {value: \"'mine'\"}}"
    )
    world.configure(
        service("reviews", world.port) + telemetry(override(f"match: {{metric: REQUEST_COUNT}}, tagOverrides: {tags}"))
    )
    server, client = world.server_mesh(), world.client_mesh()
    with serving(make(), server, world.port):
        send(client, kind, "POST", "http://reviews/", headers={"x-tenant": "blue"})
        send(client, kind, "GET", "http://reviews/")
        pages = [world.of_client(2), world.of_server(2)]
    for page in pages:
        labels = page.one(request_method="POST")
        assert (labels["tenant"], labels["source_version"]) == ("blue", "mine")
        assert "destination_app" not in labels
        assert set(labels) | {"grpc_response_status"} == (
            set(REQUEST_LABELS) - {"destination_app"} | {"request_method", "tenant"}
        )
        # A header that is not there.
        assert page.one(request_method="GET")["tenant"] == "unknown"
        # Other metrics are as ever: both requests have the same labels.
        [(others, count)] = page.find(DURATION)
        assert set(others) == set(REQUEST_LABELS)
        assert count == page.value(SIZE) == 2


def test_metrics_are_switched_off_for_one_side(world: World) -> None:
    off = override("match: {metric: REQUEST_SIZE, mode: CLIENT}, disabled: true")
    world.configure(service("reviews", world.port) + telemetry(off))
    server, client = world.server_mesh(), world.client_mesh()
    with serving(application(), server, world.port):
        send(client, "sync", "GET", "http://reviews/")
        of_client, of_server = world.of_client(), world.of_server()
    assert (of_client.value(), of_client.value(DURATION), of_client.find(SIZE)) == (1, 1, [])
    assert of_server.value(SIZE) == 1


ALL_OFF = override("match: {metric: ALL_METRICS}, disabled: true")
TAGGED = override("tagOverrides: {level: {value: \"'X'\"}}")


@pytest.mark.parametrize(
    ("documents", "level"),
    [
        ((telemetry(TAGGED.replace("X", "root"), "istio-system"),), "root"),
        ((telemetry(TAGGED.replace("X", "root"), "istio-system"), telemetry(TAGGED.replace("X", "own"))), "own"),
        ((telemetry(TAGGED.replace("X", "other"), name="w", selector="{app: other}"),), ""),
        ((telemetry(ALL_OFF, "istio-system"), telemetry(TAGGED.replace("X", "again"))), "again"),
        ((telemetry(ALL_OFF, "istio-system"),), None),
    ],
)
def test_the_narrowest_telemetry_has_the_last_word(world: World, documents: tuple[str, ...], level: str | None) -> None:
    with EchoServer("reviews") as server:
        world.configure(service("reviews", server.port) + "".join(documents))
        mesh = world.client_mesh()
        send(mesh, "sync", "GET", "http://reviews/")
        page = world.of_client(0 if level is None else 1)
    if level is None:
        assert not page.find(REQUESTS)
        assert page.value("meshsdk_metrics_missed_requests_total") == 0
    else:
        assert page.one().get("level", "") == level


def test_a_telemetry_for_a_workloads_labels_comes_last(world: World) -> None:
    of_namespace, of_pod = TAGGED.replace("X", "own"), TAGGED.replace("X", "pod")
    world.configure(
        service("reviews", world.port)
        + telemetry(of_namespace)
        + telemetry(of_pod, name="w", selector="{app: reviews}")
        + telemetry(TAGGED.replace("X", "other"), name="x", selector="{app: ratings}")
    )
    server, client = world.server_mesh(), world.client_mesh()
    with serving(application(), server, world.port):
        send(client, "sync", "GET", "http://reviews/")
        assert world.of_server().one()["level"] == "pod"
        assert world.of_client().one()["level"] == "own"


def test_an_expression_that_is_more_than_an_attribute_takes_cel(world: World) -> None:
    pytest.importorskip("cel_expr_python")
    tag = "{kind_of: {value: \"request.method == 'GET' ? 'read' : 'write'\"}, port: {value: string(destination.port)}}"
    with EchoServer("reviews") as server:
        world.configure(service("reviews", server.port) + telemetry(override(f"tagOverrides: {tag}")))
        mesh = world.client_mesh()
        send(mesh, "sync", "DELETE", "http://reviews/")
        labels = world.of_client().one()
    assert (labels["kind_of"], labels["port"]) == ("write", "80")


def test_messages_and_calls_have_them_too(world: World, connect: MakeClient, clients: ExitStack) -> None:
    tags = "{method: {value: request.url_path}, peer: {value: filter_state.SIDE.workload}}"
    client_side = override(f"match: {{mode: CLIENT}}, tagOverrides: {tags.replace('SIDE', 'upstream_peer')}")
    server_side = override(f"match: {{mode: SERVER}}, tagOverrides: {tags.replace('SIDE', 'downstream_peer')}")
    yaml = service("ratings", world.port, port=9080).replace("name: http", "name: grpc").replace("{http:", "{grpc:")
    world.configure(yaml + telemetry(f"{client_side[:-1]}, {server_side[1:]}"))
    server, client = world.mesh("ratings-v2", world.server_port), world.client_mesh()
    with sync_grpc_server(server, world.port, False), clients:
        connect(client).call()
        connect(client).down(3)
        pages = [world.of_client(2), world.of_server(2)]
    for page, peer in zip(pages, ("ratings-v2", "productpage-v1"), strict=True):
        assert page.one(method="/test.Echo/Down")["peer"] == peer
        labels = page.one("istio_response_messages_total", method="/test.Echo/Down")
        assert set(labels) == {*MESSAGE_LABELS, "method", "peer"}
        assert page.value("istio_response_messages_total", method="/test.Echo/Down") == 3


def test_what_cannot_be_had_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "mesh.yaml").write_text(
        service("reviews", 1)
        + telemetry("[{overrides: [{match: {customMetric: wasm_metric}, disabled: true}], reportingInterval: 1s}]")
        + telemetry("[{providers: [{name: stackdriver}]}]", "prod")
        + telemetry("[{overrides: [{tagOverrides: {a: {value: request.nonsense}}}]}]", "test")
    )
    state = load(tmp_path)
    warnings = "\n".join(problem.text for problem in state.problems)
    assert "metrics[0].overrides[0].match.customMetric: 'wasm_metric' is not counted" in warnings
    assert "metrics[0].reportingInterval: has no effect" in warnings
    assert "Telemetry prod/t: provider 'stackdriver' of metrics is not Prometheus" in warnings
    named = "Telemetry test/t: spec.metrics[0].overrides[0].tagOverrides['a'].value: request.nonsense is not known here"
    assert named in warnings
    problems: list[str] = []
    tags = (
        ("a", "istio_operationId"),
        ("b", "request.nonsense"),
        ("le", "request.path"),
        ("c", "("),
        ("d", "request.path"),
    )
    config = StatsConfig((MetricTags("requests_total", values=tags),), "Listener.filter")
    made = compile_tags(config, {}, problems, is_server=False)
    assert made is not None
    assert len(problems) == 4
    assert all(one.startswith("the label ") and "Listener.filter.metrics[0].dimensions[" in one for one in problems)
    [(_, labels), *_] = made.rows("http", tuple(REQUEST_LABELS), ("/x",))
    assert labels == (*REQUEST_LABELS, "/x")


def test_strangers_cannot_fill_the_page_by_a_label_of_theirs(world: World) -> None:
    tag = "{path: {value: request.path}}"
    with EchoServer("reviews") as server:
        world.configure(service("reviews", server.port) + telemetry(override(f"tagOverrides: {tag}")))
        mesh = world.client_mesh()
        with mesh.client() as client:
            for number in range(230):
                client.get(f"http://reviews/{number}")
        page = world.of_client(230)
    assert page.value(path="unknown") == 30
    assert page.value("meshsdk_metrics_missed_requests_total") == 0


def _varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + _varint(value >> 7)


def _field(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def test_the_filter_is_read_as_istiod_sends_it() -> None:
    """stats.PluginConfig by hand: metrics = 8; in it dimensions = 1, name = 2, tags_to_remove = 3, drop = 5."""
    entry = _field(1, _field(1, b"method") + _field(2, b"request.method"))
    metric = entry + _field(2, b"requests_total") + _field(3, b"source_app")
    dropped = _field(2, b"request_bytes") + b"\x28\x01"
    plugin = b"\x30\x01" + _field(8, metric) + _field(8, dropped)
    expected = (
        MetricTags("requests_total", ("source_app",), (("method", "request.method"),)),
        MetricTags("request_bytes", is_dropped=True),
    )
    native = any_pb2.Any(type_url="type.googleapis.com/stats.PluginConfig", value=plugin)
    tree = {
        "disable_host_header_fallback": True,
        "metrics": [
            {"name": "requests_total", "dimensions": {"method": "request.method"}, "tags_to_remove": ["source_app"]},
            {"name": "request_bytes", "drop": True},
        ],
    }
    for container in (native, _typed_struct("xds.type.v3", tree), _typed_struct("udpa.type.v1", tree)):
        http_filter = hcm_pb2.HttpFilter(name="istio.stats", typed_config=container)
        found = parse_stats([hcm_pb2.HttpFilter(name="other"), http_filter], "f", Notes())
        assert found == StatsConfig(expected, "f[1].typed_config")
    assert len(METRICS) == 10


def _typed_struct(package: str, tree: dict[str, Any]) -> any_pb2.Any:
    from xds.type.v3 import typed_struct_pb2

    message = typed_struct_pb2.TypedStruct(type_url="type.googleapis.com/stats.PluginConfig")
    message.value.update(json.loads(json.dumps(tree)))
    return any_pb2.Any(type_url=f"type.googleapis.com/{package}.TypedStruct", value=message.SerializeToString())
