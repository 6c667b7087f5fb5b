"""What an AccessLogService is told of a request.

Made by the writer's thread of entries that are over. What is not known here (bytes on the wire, points of time of a
connection) is left out.

Source: Envoy source/extensions/access_loggers/grpc/http_grpc_access_log_impl.cc, grpc_access_log_utils.cc.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from envoy.config.core.v3 import address_pb2, base_pb2
from envoy.data.accesslog.v3 import accesslog_pb2
from envoy.service.accesslog.v3 import als_pb2
from google.protobuf import duration_pb2, json_format

from ..access_log import Entry, Headers
from ..node import Node
from ..resources.log_service import LogService
from ..xds.ads_client import node_message

__all__ = ["grpc_message", "make_grpc_entry", "shown"]

# envoy.data.accesslog.v3.ResponseFlags, by their short names; UAEX is told otherwise.
_FLAGS = {
    "LH": "failed_local_healthcheck",
    "UH": "no_healthy_upstream",
    "UT": "upstream_request_timeout",
    "LR": "local_reset",
    "UR": "upstream_remote_reset",
    "UF": "upstream_connection_failure",
    "UC": "upstream_connection_termination",
    "UO": "upstream_overflow",
    "NR": "no_route_found",
    "DI": "delay_injected",
    "FI": "fault_injected",
    "RL": "rate_limited",
    "RLSE": "rate_limit_service_error",
    "DC": "downstream_connection_termination",
    "URX": "upstream_retry_limit_exceeded",
    "SI": "stream_idle_timeout",
    "IH": "invalid_envoy_request_headers",
    "DPE": "downstream_protocol_error",
    "UMSDR": "upstream_max_stream_duration_reached",
    "RFCF": "response_from_cache_filter",
    "NFCF": "no_filter_config_found",
    "DT": "duration_timeout",
    "UPE": "upstream_protocol_error",
    "NC": "no_cluster_found",
    "OM": "overload_manager",
    "DF": "dns_resolution_failure",
    "DR": "downstream_remote_reset",
}
_METHODS = frozenset(base_pb2.RequestMethod.keys())
_PROTOCOLS = {"HTTP/1.0": 1, "HTTP/1.1": 2, "HTTP/2": 3, "HTTP/3": 4}
_TLS_VERSIONS = {"TLSv1": 1, "TLSv1.1": 2, "TLSv1.2": 3, "TLSv1.3": 4}
_DOWNSTREAM_END = accesslog_pb2.AccessLogType.DownstreamEnd

_NANOSECONDS = 1_000_000_000
_LONGEST = 8192


def grpc_message(entries: Iterable[accesslog_pb2.HTTPAccessLogEntry], service: LogService, node: Node) -> bytes:
    """A StreamAccessLogsMessage, the first of its stream."""
    message = als_pb2.StreamAccessLogsMessage()
    message.identifier.log_name = service.log_name
    message.identifier.node.CopyFrom(node_message(node))
    message.http_logs.log_entry.extend(entries)
    packed: bytes = message.SerializeToString()
    return packed


def make_grpc_entry(entry: Entry, service: LogService) -> accesslog_pb2.HTTPAccessLogEntry:
    """What an AccessLogService is told of one request."""
    message = accesslog_pb2.HTTPAccessLogEntry(protocol_version=_PROTOCOLS.get(entry.steady.protocol, 0))
    _fill_common(message.common_properties, entry)
    _fill_request(message.request, entry, service)
    response = message.response
    if entry.status:
        response.response_code.value = entry.status
    response.response_code_details = entry.steady.details
    response.response_headers_bytes = _size(entry.headers)
    response.response_body_bytes = entry.sent
    _tell(response.response_headers, entry.headers, service.response_headers)
    _tell(response.response_trailers, entry.trailers, service.response_trailers)
    return message


def _fill_request(request: accesslog_pb2.HTTPRequestProperties, entry: Entry, service: LogService) -> None:
    head, names = entry.head, entry.names

    def header(name: bytes) -> str:
        return _text(names.get(name, b""))

    if head.method in _METHODS:
        request.request_method = base_pb2.RequestMethod.Value(head.method)
    request.scheme, request.authority, request.path = map(shown, (head.scheme, head.authority, head.target))
    request.user_agent, request.referer = header(b"user-agent"), header(b"referer")
    request.forwarded_for, request.request_id = header(b"x-forwarded-for"), header(b"x-request-id")
    request.original_path = header(b"x-envoy-original-path")
    # Envoy counts what HTTP/2 makes headers of, too.
    pseudo = sum(map(len, (":method:path:authority:scheme", head.method, head.target, head.authority, head.scheme)))
    own = [one for one in head.raw_headers if one[0].lower() != b"host"]
    request.request_headers_bytes = _size(own) + pseudo
    request.request_body_bytes = entry.received
    _tell(request.request_headers, head.raw_headers, service.request_headers)


def _fill_common(common: accesslog_pb2.AccessLogCommon, entry: Entry) -> None:
    steady = entry.steady
    started = entry.ended - entry.seconds
    common.start_time.FromNanoseconds(int(started * _NANOSECONDS))
    _fill_duration(common.duration, entry.seconds)
    _fill_duration(common.time_to_last_downstream_tx_byte, entry.seconds)
    if entry.seconds_to_head is not None:
        _fill_duration(common.time_to_first_upstream_rx_byte, entry.seconds_to_head)
        _fill_duration(common.time_to_first_downstream_tx_byte, entry.seconds_to_head)
    if steady.host:
        _fill_address(common.upstream_remote_address, steady.host)
        # Envoy's is the host's.
        common.upstream_cluster = steady.cluster
    _fill_address(common.upstream_local_address, steady.own_address)
    for name, address in (
        ("REMOTE", common.downstream_remote_address),
        ("LOCAL", common.downstream_local_address),
        ("DIRECT_REMOTE", common.downstream_direct_remote_address),
    ):
        _fill_address(address, entry.ask(f"DOWNSTREAM_{name}_ADDRESS"))
    common.upstream_transport_failure_reason = steady.failure
    common.route_name = steady.route
    common.upstream_request_attempt_count = steady.attempts
    common.access_log_type = _DOWNSTREAM_END
    _fill_flags(common.response_flags, steady.flags)
    _fill_tls(common, entry)
    for name, told in (entry.of_server.metadata if entry.of_server is not None else {}).items():
        json_format.ParseDict(_plain(told), common.metadata.filter_metadata[name])


def _fill_flags(flags: accesslog_pb2.ResponseFlags, told: str) -> None:
    for flag in told.split(",") if told else ():
        if flag == "UAEX":
            flags.unauthorized_details.reason = 1  # EXTERNAL_SERVICE
        elif flag in _FLAGS:
            setattr(flags, _FLAGS[flag], True)


def _fill_tls(common: accesslog_pb2.AccessLogCommon, entry: Entry) -> None:
    server_name, version = entry.ask("REQUESTED_SERVER_NAME"), entry.ask("DOWNSTREAM_TLS_VERSION")
    if server_name:
        common.tls_properties.tls_sni_hostname = shown(server_name)
    if not version:
        return
    tls = common.tls_properties
    tls.tls_version = _TLS_VERSIONS.get(version, 0)
    for side, properties in (("PEER", tls.peer_certificate_properties), ("LOCAL", tls.local_certificate_properties)):
        for uri in filter(None, entry.ask(f"DOWNSTREAM_{side}_URI_SAN").split(",")):
            properties.subject_alt_name.add(uri=shown(uri))
    tls.peer_certificate_properties.subject = shown(entry.ask("DOWNSTREAM_PEER_SUBJECT"))


def _fill_duration(message: duration_pb2.Duration, seconds: float) -> None:
    message.FromNanoseconds(int(seconds * _NANOSECONDS))


def _fill_address(message: address_pb2.Address, address: str) -> None:
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        ipaddress.ip_address(host)
    except ValueError:
        if address.startswith(("/", "@")):
            message.pipe.path = shown(address)
        return
    if port.isdecimal():
        message.socket_address.address, message.socket_address.port_value = host, int(port)


def _tell(told: Any, headers: Headers, names: Sequence[str]) -> None:
    """The values of some headers; of several with one name all, as Envoy joins them."""
    if not names:
        return
    for raw_name, value in headers:
        name = raw_name.decode("latin-1").lower()
        if name in names:
            text = _text(value)
            told[name] = f"{told[name]},{text}" if name in told else text


def _size(headers: Headers) -> int:
    return sum(len(name) + len(value) for name, value in headers)


def _text(value: bytes) -> str:
    return shown(value.decode("utf-8", "backslashreplace"))


def shown(value: str) -> str:
    """A text that protobuf takes, of bounded length."""
    return value[:_LONGEST].encode("utf-8", "backslashreplace").decode("utf-8")


def _plain(told: Mapping[str, Any]) -> dict[str, Any]:
    """What JSON has of it."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(told), default=str))
    return plain
