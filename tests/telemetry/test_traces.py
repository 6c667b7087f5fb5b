"""Traces: parents across engines, who decides which are told, tags, and B3."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import service, virtual_service
from tests.controlplane.test_access_logging import mesh_config
from tests.http.routed import write_route
from tests.processes import CLEAN_ENVIRONMENT
from tests.servers import EchoServer

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT, UNSAMPLED = f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-00"


def _run(module: str, *arguments: str, **environment: str) -> dict[str, Any]:
    command = [sys.executable, "-m", f"tests.telemetry.{module}", *arguments]
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=90, check=False, env={**CLEAN_ENVIRONMENT, **environment}
    )
    assert result.returncode == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


@pytest.fixture
def server() -> Iterator[EchoServer]:
    with EchoServer() as started:
        yield started


def sent(folder: Path, requests: list[dict[str, Any]], url: str = "http://a/x?y=1", **environment: str) -> Any:
    """The spans of requests, without those of attempts; and the statuses."""
    found = _run("traced_requests", str(folder), url, json.dumps(requests), **environment)
    spans = [one for one in found["spans"] if "meshsdk.attempts" in one["attributes"]]
    return spans, found["statuses"]


def _folder(tmp_path: Path, *documents: str) -> Path:
    folder = tmp_path / "mesh"
    folder.mkdir(exist_ok=True)
    (folder / "mesh.yaml").write_text("---\n".join(documents))
    return folder


def telemetry(*tracing: dict[str, Any], namespace: str = "default", selector: Any = None) -> str:
    spec: dict[str, Any] = {"tracing": list(tracing)}
    if selector is not None:
        spec["selector"] = {"matchLabels": selector}
    document = {
        "apiVersion": "telemetry.istio.io/v1",
        "kind": "Telemetry",
        "metadata": {"name": f"t-{namespace}-{selector is not None}".lower(), "namespace": namespace},
        "spec": spec,
    }
    return json.dumps(document) + "\n"


@pytest.mark.parametrize("instrumented", [False, True])
def test_a_trace_goes_through_every_engine_and_each_span_has_the_one_before_for_its_parent(
    instrumented: bool, tmp_path: Path
) -> None:
    if instrumented:
        pytest.importorskip("opentelemetry.instrumentation.httpx")
    found = _run("traced_chain", str(tmp_path), *(["instrumented"] if instrumented else []))
    spans = found["spans"]
    assert len({one["trace"] for one in spans}) == 1
    by_id = {one["id"]: one for one in spans}
    ways = []
    for one in spans:
        way = []
        while one is not None:
            way.append("attempt" if _is_attempt(one) else one["kind"])
            one = by_id.get(one["parent"])
        # What frameworks make of a request besides is between.
        ways.append([kind for kind in reversed(way) if kind != "INTERNAL"])
    hop = ["CLIENT", "attempt", "SERVER"]
    # The second hop is WSGI, the third one gRPC, whose attempts are grpc-core's own; the last one is asked three times.
    whole = [*hop, *hop, "CLIENT", "SERVER", *hop]
    assert ways.count(whole) >= 3
    assert sum(one["kind"] == "SERVER" for one in spans) == 3 + 3
    assert sum(one["kind"] == "CLIENT" and not _is_attempt(one) for one in spans) == 3 + 2
    assert sum(_is_attempt(one) for one in spans) == 2 + 3
    assert {one["attributes"].get("http.request.resend_count") for one in spans if _is_attempt(one)} == {None, 1}
    assert [answer["baggage"] for answer in found["answers"]] == [{"tenant": "7"}] * 2


def _is_attempt(span: dict[str, Any]) -> bool:
    return span["kind"] == "CLIENT" and "network.peer.address" in span["attributes"]


def _is_sampled(seen: dict[str, Any]) -> bool:
    # Beside this flag there is one that says that the trace's id is random.
    return bool(int(seen["headers"]["traceparent"][-2:], 16) & 1)


NONE = {"randomSamplingPercentage": 0}
ALL = {"randomSamplingPercentage": 100}
DEFAULT_ALL = mesh_config(defaultConfig={"tracing": {"sampling": 100}})


@pytest.mark.parametrize(
    ("documents", "is_sampled"),
    [
        ([], True),
        ([telemetry(NONE)], False),
        ([telemetry(ALL)], True),
        ([telemetry(NONE, namespace="istio-system")], False),
        ([telemetry(NONE, namespace="istio-system"), telemetry(ALL)], True),
        ([telemetry(ALL, namespace="istio-system"), telemetry(NONE)], False),
        ([telemetry(NONE, namespace="elsewhere")], True),
        ([telemetry(NONE, selector={"app": "other"})], True),
        (
            [
                telemetry({**NONE, "match": {"mode": "SERVER"}}),
                mesh_config(defaultConfig={"tracing": {"sampling": 100}}),
            ],
            True,
        ),
        ([telemetry({**NONE, "match": {"mode": "CLIENT"}})], False),
        ([telemetry({"enableIstioTags": False}), DEFAULT_ALL], True),
        ([telemetry({"enableIstioTags": False})], False),
        ([telemetry({**NONE, "useRequestIdForTraceSampling": False})], True),
        ([mesh_config(enableTracing=True, defaultConfig={"tracing": {"sampling": 100}})], True),
        ([mesh_config(enableTracing=False, defaultConfig={"tracing": {"sampling": 0.01}})], True),
        ([mesh_config(defaultProviders={"tracing": ["x"]}, defaultConfig={"tracing": {"sampling": 0.01}})], False),
    ],
)
def test_telemetry_and_mesh_config_decide_which_requests_are_sampled(
    documents: list[str], is_sampled: bool, server: EchoServer, tmp_path: Path
) -> None:
    folder = _folder(tmp_path, service("a", server.port), *documents)
    # By its first digits this id is in no share but that of all.
    request_id = {"x-request-id": "0000270f-2222-4333-8444-555555555555"}
    spans, _ = sent(folder, [{"headers": request_id}] * 2)
    assert len(spans) == (2 if is_sampled else 0)
    assert [_is_sampled(one) for one in server.seen] == [is_sampled] * 2
    # The decision goes on, for those who decide by the id.
    says = {one["headers"]["x-request-id"][14] for one in server.seen}
    assert says <= ({"4", "9"} if is_sampled else {"4"})


def test_a_parents_decision_stands(server: EchoServer, tmp_path: Path) -> None:
    folder = _folder(tmp_path, service("a", server.port), telemetry(NONE))
    parents = [{"parent": PARENT}, {"parent": UNSAMPLED}, {"headers": {"traceparent": PARENT}}, {}]
    spans, _ = sent(folder, parents)
    assert [one["parent"] for one in spans] == [SPAN, SPAN]
    assert [_is_sampled(one) for one in server.seen] == [True, False, True, False]
    assert [one["headers"]["traceparent"].split("-")[1] == TRACE for one in server.seen] == [True, True, True, False]
    folder = _folder(tmp_path, service("a", server.port), telemetry(ALL))
    spans, _ = sent(folder, parents[1:])
    assert [one["parent"] for one in spans] == [SPAN, ""]


def test_where_spans_are_disabled_the_trace_goes_by(server: EchoServer, tmp_path: Path) -> None:
    folder = _folder(tmp_path, service("a", server.port), telemetry({"disableSpanReporting": True}))
    spans, _ = sent(folder, [{"parent": PARENT}, {"headers": {"traceparent": PARENT, "baggage": "k=v"}}, {}])
    assert spans == []
    assert [one["headers"].get("traceparent") for one in server.seen] == [PARENT, PARENT, None]
    assert server.seen[1]["headers"]["baggage"] == "k=v"


def test_tags_are_istios_and_envoys_beside_the_conventions(server: EchoServer, tmp_path: Path) -> None:
    folder = _folder(tmp_path, service("a", server.port))
    (tmp_path / "etc/istio/pod").mkdir(parents=True)
    (tmp_path / "etc/istio/pod/labels").write_text('app="shop"\nversion="v7"\n')
    spans, _ = sent(
        folder,
        [{"headers": {"user-agent": "me", "x-client-trace-id": "c", "x-request-id": "mine"}}],
        MESHSDK_POD_ROOT=str(tmp_path),
    )
    [span] = spans
    tags = span["attributes"]
    assert span["name"] == "GET"
    size = str(len(json.dumps(server.seen[0])))
    cluster = "outbound|80||a.default.svc.cluster.local"
    assert (
        tags
        | {
            "component": "proxy",
            "downstream_cluster": "-",
            "guid:x-client-trace-id": "c",
            "guid:x-request-id": "mine",
            "http.method": "GET",
            "http.protocol": "HTTP/1.1",
            "http.status_code": "200",
            "http.url": "http://a/x?y=1",
            "istio.canonical_revision": "v7",
            "istio.canonical_service": "shop",
            "istio.namespace": "default",
            "peer.address": "127.0.0.1",
            "request_size": "0",
            "response_flags": "-",
            "response_size": size,
            "upstream_cluster": cluster,
            "upstream_cluster.name": cluster,
            "user_agent": "me",
            "http.request.method": "GET",
            "http.response.status_code": 200,
            "url.full": "http://a/x?y=1",
        }
        == tags
    )
    assert "error" not in tags


def test_a_failure_is_tagged_with_its_flags(tmp_path: Path) -> None:
    retries = "[{retries: {attempts: 1, retryOn: connect-failure}, route: [{destination: {host: a}}]}]"
    [span], _ = sent(_folder(tmp_path, service("a", 1), virtual_service("a", retries)), [{}])
    tags = span["attributes"]
    assert (tags["http.status_code"], tags["response_flags"], tags["error"]) == ("0", "URX,UF", "true")


TAGS = {
    "lit": {"literal": {"value": "one"}},
    "env": {"environment": {"name": "SHOP_COLOR", "defaultValue": "none"}},
    "unset": {"environment": {"name": "SHOP_SIZE"}},
    "default": {"environment": {"name": "SHOP_SIZE", "defaultValue": "small"}},
    "user": {"header": {"name": "X-User", "defaultValue": "nobody"}},
    "missing": {"header": {"name": "x-missing"}},
    "format": {"formatter": {"value": "%REQ(x-user)%@%REQ(:authority)%"}},
}


@pytest.mark.parametrize("has_istio_tags", [True, False])
def test_custom_tags_of_telemetry(has_istio_tags: bool, server: EchoServer, tmp_path: Path) -> None:
    rule = {**ALL, "customTags": TAGS, "enableIstioTags": has_istio_tags}
    folder = _folder(tmp_path, service("a", server.port), telemetry(rule))
    spans, _ = sent(folder, [{"headers": {"x-user": "ann"}}, {}], SHOP_COLOR="red")
    first, second = (one["attributes"] for one in spans)
    expected = {"lit": "one", "env": "red", "default": "small", "user": "ann", "format": "ann@a"}
    assert first | expected == first
    assert not {"unset", "missing"} & first.keys()
    assert second["user"] == "nobody"
    assert ("istio.namespace" in first) is has_istio_tags


def test_a_level_of_telemetry_replaces_the_tags_of_the_one_above(server: EchoServer, tmp_path: Path) -> None:
    above = telemetry({**ALL, "customTags": {"a": {"literal": {"value": "1"}}}}, namespace="istio-system")
    own = telemetry({"customTags": {"b": {"literal": {"value": "2"}}}})
    spans, _ = sent(_folder(tmp_path, service("a", server.port), above, own), [{}])
    assert {"a", "b"} & spans[0]["attributes"].keys() == {"b"}


def test_a_connection_managers_tracing_and_a_routes(server: EchoServer, tmp_path: Path) -> None:
    write_route(tmp_path / "mesh", server.port, {})
    path = tmp_path / "mesh" / "0.json"
    listener = json.loads(path.read_text())
    manager = listener["api_listener"]["api_listener"]
    manager["tracing"] = {
        "random_sampling": {"value": 0},
        "max_path_tag_length": 5,
        "custom_tags": [
            {"tag": "a", "literal": {"value": "manager"}},
            {"tag": "b", "literal": {"value": "manager"}},
            {"tag": "m", "metadata": {"kind": {"route": {}}, "metadata_key": {"key": "k", "path": [{"key": "p"}]}}},
        ],
    }
    [route] = manager["route_config"]["virtual_hosts"][0]["routes"]
    route["metadata"] = {"filter_metadata": {"k": {"p": 7}}}
    route["decorator"] = {"operation": "shop:80/*"}
    path.write_text(json.dumps(listener))
    spans, _ = sent(tmp_path / "mesh", [{}], "http://subject.test/long/path")
    assert spans == []
    route["tracing"] = {
        "random_sampling": {"numerator": 100},
        "custom_tags": [{"tag": "a", "literal": {"value": "route"}}],
    }
    path.write_text(json.dumps(listener))
    [span], _ = sent(tmp_path / "mesh", [{}], "http://subject.test/long/path")
    tags = span["attributes"]
    assert span["name"] == "shop:80/*"
    assert (tags["a"], tags["b"], tags["m"]) == ("route", "manager", "7")
    assert tags["http.url"] == "http://subject.test/long"
    assert tags["url.full"] == "http://subject.test/long/path"


B3_TRACE, B3_SPAN = "463ac35c9f6413ad48485a3953bb6124", "a2fb4a1d1a96d312"
SINGLE = {"b3": f"{B3_TRACE}-{B3_SPAN}-1"}
MULTI = {"x-b3-traceid": B3_TRACE, "x-b3-spanid": B3_SPAN, "x-b3-sampled": "1", "x-b3-parentspanid": "1" * 16}


def test_b3_goes_on_in_the_form_that_came_beside_w3c(server: EchoServer, tmp_path: Path) -> None:
    folder = _folder(tmp_path, service("a", server.port))
    short = {**MULTI, "x-b3-traceid": B3_TRACE[16:]}
    denied = {**MULTI, "x-b3-sampled": "0"}
    requests = [SINGLE, MULTI, short, denied, {"b3": "0"}, {"b3": "no-b3"}, {**SINGLE, "traceparent": PARENT}]
    found = _run("traced_requests", str(folder), "http://a/", json.dumps([{"headers": one} for one in requests]))
    attempts = {one["id"]: one for one in found["spans"] if "meshsdk.attempts" not in one["attributes"]}
    single, multi, short_one, not_sampled, zero, broken, both = (one["headers"] for one in server.seen)
    trace_id, span_id, sampled, parent_id = single["b3"].split("-")
    assert (trace_id, sampled) == (B3_TRACE, "1")
    assert attempts[span_id]["parent"] == parent_id
    assert single["traceparent"] == f"00-{B3_TRACE}-{span_id}-01"
    assert "x-b3-traceid" not in single
    assert (multi["x-b3-traceid"], multi["x-b3-sampled"]) == (B3_TRACE, "1")
    assert attempts[multi["x-b3-spanid"]]["parent"] == multi["x-b3-parentspanid"] != "1" * 16
    assert "b3" not in multi
    assert short_one["x-b3-traceid"] == "0" * 16 + B3_TRACE[16:]
    assert (not_sampled["x-b3-traceid"], not_sampled["x-b3-sampled"]) == (B3_TRACE, "0")
    assert not_sampled["traceparent"].endswith("-00")
    assert zero["b3"].endswith("-0")
    assert broken["b3"] == "no-b3"
    assert _is_sampled(server.seen[5])
    assert both["b3"] == SINGLE["b3"]
    assert both["traceparent"].split("-")[1] == TRACE


@pytest.mark.parametrize(("propagator", "header"), [("b3", "b3"), ("b3multi", "x-b3-traceid")])
def test_the_applications_own_propagator_is_what_writes(
    propagator: str, header: str, server: EchoServer, tmp_path: Path
) -> None:
    pytest.importorskip("opentelemetry.propagators.b3")
    folder = _folder(tmp_path, service("a", server.port))
    sent(folder, [{"headers": SINGLE}, {"headers": MULTI}, {}], PROPAGATOR=propagator)
    for number, one in enumerate(server.seen):
        written = one["headers"][header]
        assert (B3_TRACE in written) is (number < 2)
        assert "traceparent" not in one["headers"]
