"""Traces of requests that come in: who decides, tags, and what goes on in what the application sends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import service

from .test_traces import ALL, B3_TRACE, MULTI, NONE, PARENT, SINGLE, SPAN, TRACE, UNSAMPLED, _run, telemetry

KINDS = ("asgi", "wsgi", "grpc")
SERVERS_ONLY = {"match": {"mode": "SERVER"}}


def came_in(kind: str, tmp_path: Path, requests: list[dict[str, str]], *documents: str) -> tuple[Any, Any, int]:
    """The spans of servers, what was sent on, and the server's port."""
    places = [service("web", 1).replace("web-1", "web-own").replace("http: 1", "http: PORT")]
    places.append(service("back", 1).replace("back-1", "back-own").replace("http: 1", "http: BACK"))
    (tmp_path / "mesh.yaml").write_text("---\n".join([*places, *documents]))
    found = _run("traced_servers", kind, str(tmp_path), json.dumps(requests))
    return [one for one in found["spans"] if one["kind"] == "SERVER"], found["sent"], found["port"]


@pytest.mark.parametrize("kind", KINDS)
def test_configuration_decides_where_the_caller_has_not(kind: str, tmp_path: Path) -> None:
    requests = [{}, {"traceparent": PARENT}, {"traceparent": UNSAMPLED}, {"x-client-trace-id": "c"}]
    # Of what the application sends one in a hundred would be sampled, unless somebody says otherwise.
    sends = {**NONE, "match": {"mode": "CLIENT"}}
    spans, sent, _ = came_in(kind, tmp_path, requests, telemetry({**NONE, **SERVERS_ONLY}, sends))
    assert [one["parent"] for one in spans] == [SPAN, ""]
    assert [one["traceparent"][-1] in "13" for one in sent] == [False, True, False, True]
    assert [one["traceparent"].split("-")[1] == TRACE for one in sent] == [False, True, True, False]
    assert [one["x-request-id"][14] for one in sent] == ["4", "4", "4", "b"]


@pytest.mark.parametrize("kind", KINDS)
def test_where_spans_are_disabled_the_trace_goes_by(kind: str, tmp_path: Path) -> None:
    rule = telemetry({"disableSpanReporting": True})
    spans, sent, _ = came_in(kind, tmp_path, [{"traceparent": PARENT, "baggage": "k=v"}, {}], rule)
    assert spans == []
    assert [one.get("traceparent") for one in sent] == [PARENT, None]
    assert sent[0]["baggage"] == "k=v"


@pytest.mark.parametrize("kind", KINDS)
def test_b3_that_came_goes_on_beside_w3c(kind: str, tmp_path: Path) -> None:
    spans, sent, _ = came_in(kind, tmp_path, [SINGLE, MULTI, {"b3": "0"}, {"traceparent": PARENT}])
    assert len(spans) == 3
    assert sent[0]["b3"].startswith(f"{B3_TRACE}-")
    assert sent[0]["b3"].split("-")[1] == sent[0]["traceparent"].split("-")[2]
    assert (sent[1]["x-b3-traceid"], sent[1]["x-b3-sampled"]) == (B3_TRACE, "1")
    assert sent[2]["b3"].split("-")[2] == "0"
    assert not {"b3", "x-b3-traceid"} & sent[3].keys()


@pytest.mark.parametrize("kind", KINDS)
def test_tags_are_envoys_and_those_of_telemetry(kind: str, tmp_path: Path) -> None:
    tags = {"lit": {"literal": {"value": "one"}}, "user": {"header": {"name": "x-user"}}}
    headers = {"x-user": "ann", "x-request-id": "00000000-1111-4222-8333-444444444444"}
    rule = telemetry({**ALL, **SERVERS_ONLY, "customTags": tags})
    [span], sent, port = came_in(kind, tmp_path, [headers], rule)
    told = span["attributes"]
    expected = {
        "component": "proxy",
        "lit": "one",
        "user": "ann",
        "istio.namespace": "default",
        "istio.canonical_service": "web",
        "guid:x-request-id": "00000000-1111-9222-8333-444444444444",
        "response_flags": "-",
        "upstream_cluster": f"inbound|{port}||",
        "peer.address": "127.0.0.1",
        "http.status_code": "200",
    }
    if kind == "grpc":
        expected |= {"grpc.path": "/test.Traced/Go", "grpc.status_code": "0"}
    else:
        expected |= {"http.url": f"http://127.0.0.1:{port}/items/7?a=b", "response_size": "3", "http.method": "GET"}
    assert told | expected == told
    assert span["name"] == {"asgi": "GET /items/{item}", "wsgi": "GET", "grpc": "test.Traced/Go"}[kind]
    assert sent[0]["x-request-id"] == expected["guid:x-request-id"]
