"""What access log servers are told of a request is what the real Envoy tells them, but for addresses, ids and times."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
from google.protobuf import json_format

import meshsdk

from ..patience import PATIENCE
from ..processes import envoy, free_ports
from ..telemetry.log_collectors import Collector
from .logged_exchanges import HOST, Exchange, exchanges, make_manager, running_upstream, send_all
from .subjects import cluster

_TYPE = "type.googleapis.com/envoy"
_LOGGERS = f"{_TYPE}.extensions.access_loggers"
_SEED, _COUNT = 11, 60

# Points of time, addresses, what is on the wire and connections: not known here, or another each time.
_ACCIDENTAL = {
    *("start_time", "duration", "stream_id", "upstream_local_address"),
    *("downstream_remote_address", "downstream_local_address", "downstream_direct_remote_address"),
    *("downstream_wire_bytes_sent", "downstream_wire_bytes_received"),
    *("upstream_wire_bytes_sent", "upstream_wire_bytes_received"),
    *("upstream_header_bytes_sent", "upstream_header_bytes_received"),
    *("downstream_header_bytes_sent", "downstream_header_bytes_received"),
    *("request_id", "upstream_remote_address", "tls_properties"),
    # Envoy's fault filter says of itself that it was there.
    "metadata",
    # Envoy adds headers of its own to what it measures.
    *("request_headers_bytes", "response_headers_bytes"),
}


def _common(log_name: str, **more: Any) -> dict[str, Any]:
    service = {"envoy_grpc": {"cluster_name": "logs"}, "initial_metadata": [{"key": "x-token", "value": "t"}]}
    return {
        "log_name": log_name,
        "transport_api_version": "V3",
        "grpc_service": service,
        "buffer_flush_interval": "0.1s",
        **more,
    }


def _texts(**values: str) -> dict[str, Any]:
    return {"values": [{"key": key, "value": {"string_value": value}} for key, value in values.items()]}


def _logs() -> list[dict[str, Any]]:
    als = {
        "@type": f"{_LOGGERS}.grpc.v3.HttpGrpcAccessLogConfig",
        "common_config": _common("mine"),
        "additional_request_headers_to_log": ["X-Case", "x-odd", "x-missing"],
        "additional_response_headers_to_log": ["x-up", "content-type"],
        "additional_response_trailers_to_log": ["x-none"],
    }
    attributes = _texts(case="%REQ(X-CASE)%", code="%RESPONSE_CODE%", flags="%RESPONSE_FLAGS%")
    attributes["values"].append(
        {
            "key": "nested",
            "value": {"kvlist_value": _texts(method="%REQ(:METHOD)%", details="%RESPONSE_CODE_DETAILS%")},
        }
    )
    otel = {
        "@type": f"{_LOGGERS}.open_telemetry.v3.OpenTelemetryAccessLogConfig",
        "common_config": _common("theirs"),
        "body": {"string_value": "%REQ(:METHOD)% %RESPONSE_CODE% %UPSTREAM_CLUSTER_RAW% in=%BYTES_RECEIVED% 100%%"},
        "attributes": attributes,
        "resource_attributes": _texts(service="subject"),
    }
    return [{"name": "als", "typed_config": als}, {"name": "otel", "typed_config": otel}]


def _manager(folder: Path) -> dict[str, Any]:
    return {**make_manager(folder), "access_log": _logs()}


def _http2(name: str, port: int) -> dict[str, Any]:
    options = {
        "@type": f"{_TYPE}.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    key = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    return cluster(name, port, typed_extension_protocol_options={key: options})


def _through_envoy(folder: Path, every: list[Exchange], collector: Collector) -> None:
    folder.mkdir()
    [port] = free_ports(1)
    listener = {
        "name": "subject",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{"filters": [{"name": "manager", "typed_config": _manager(folder)}]}],
    }
    with running_upstream() as clusters:
        config: dict[str, Any] = {
            "node": {"id": "subject", "cluster": "subject"},
            "static_resources": {"listeners": [listener], "clusters": [*clusters, _http2("logs", collector.port)]},
        }
        with envoy(config, [port], folder), httpx.Client(timeout=PATIENCE) as client:
            send_all(client, f"http://127.0.0.1:{port}", {"host": HOST}, every)
            _wait(collector, len(every) + 1)


def _on_the_mesh(folder: Path, every: list[Exchange], collector: Collector) -> None:
    folder.mkdir()
    with running_upstream() as clusters:
        documents = [
            {"@type": f"{_TYPE}.config.cluster.v3.Cluster", **one}
            for one in [*clusters, _http2("logs", collector.port)]
        ]
        made = {"api_listener": {"api_listener": _manager(folder)}}
        documents.append({"@type": f"{_TYPE}.config.listener.v3.Listener", "name": HOST, **made})
        for index, document in enumerate(documents):
            (folder / f"{index}.json").write_text(json.dumps(document))
        with meshsdk.Mesh(config=folder) as mesh, mesh.client(timeout=PATIENCE) as client:
            mesh.wait_ready(HOST)
            send_all(client, f"http://{HOST}", {}, every)
            _wait(collector, len(every) + 1)


def _wait(collector: Collector, count: int) -> None:
    collector.wait_for(lambda one: one.entries, count)
    collector.wait_for(lambda one: one.records, count)


def _entries(collector: Collector) -> dict[str, Any]:
    found = {}
    for entry in collector.entries:
        told = json_format.MessageToDict(entry, preserving_proto_field_name=True)
        case = told["request"]["request_headers"]["x-case"]
        if told["request"].get("path", "").startswith("/refused"):
            # The body comes before the connection is refused, or does not.
            told["request"].pop("request_body_bytes", None)
        found[case] = _without_accidents(told)
    return found


def _without_accidents(told: Any) -> Any:
    if isinstance(told, dict):
        return {
            name: _without_accidents(value)
            for name, value in told.items()
            if name not in _ACCIDENTAL and not name.startswith("time_to_")
        }
    return told


def _records(collector: Collector) -> dict[str, Any]:
    found = {}
    for record in collector.records:
        told = json_format.MessageToDict(record, preserving_proto_field_name=True)
        told.pop("time_unix_nano")
        attributes = {one["key"]: one["value"] for one in told["attributes"]}
        if "cluster=refused" in told["body"]["string_value"] or " refused " in told["body"]["string_value"]:
            told["body"]["string_value"] = told["body"]["string_value"].partition(" in=")[0]
        found[attributes["case"]["string_value"]] = {"body": told["body"], "attributes": attributes}
    return found


def _resources(collector: Collector) -> set[str]:
    return {
        json_format.MessageToJson(logs.resource, preserving_proto_field_name=True, sort_keys=True)
        for message in collector.messages
        for logs in getattr(message, "resource_logs", ())
    }


def test_servers_of_access_logs_are_told_what_envoy_tells_them(tmp_path: Path) -> None:
    every = exchanges(_SEED, _COUNT)
    with Collector() as theirs, Collector() as ours:
        _through_envoy(tmp_path / "envoy", every, theirs)
        _on_the_mesh(tmp_path / "meshsdk", every, ours)
        for read in (_entries, _records):
            expected, found = read(theirs), read(ours)
            assert len(expected) == _COUNT + 1
            different = [
                f"{case}:\n  Envoy   {told}\n  meshsdk {found.get(case)}"
                for case, told in expected.items()
                if told != found.get(case)
            ]
            assert not different, f"{len(different)} differ:\n" + "\n".join(different[:5])
        identifiers = [message.identifier for message in ours.messages if hasattr(message, "identifier")]
        assert {one.log_name for one in identifiers} == {"mine"}
        assert all(one["x-token"] == "t" for one in ours.metadata)
        # The node of either has names of its own.
        [resource] = _resources(ours)
        assert '"log_name"' in resource
        assert '"subject"' in resource
