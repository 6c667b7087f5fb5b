"""Names that Envoy's access log has for numbers and flags.

Sources: Envoy docs, access_log/usage (RESPONSE_FLAGS_LONG, GRPC_STATUS); envoy/stream_info/stream_info.h.
"""

from __future__ import annotations

__all__ = ["FLAG_NAMES", "GRPC_CAMEL", "GRPC_OF_HTTP", "GRPC_SNAKE", "NOT_KNOWN_HERE"]

FLAG_NAMES = {
    "LH": "FailedLocalHealthCheck",
    "UH": "NoHealthyUpstream",
    "UT": "UpstreamRequestTimeout",
    "LR": "LocalReset",
    "UR": "UpstreamRemoteReset",
    "UF": "UpstreamConnectionFailure",
    "UC": "UpstreamConnectionTermination",
    "UO": "UpstreamOverflow",
    "NR": "NoRouteFound",
    "DI": "DelayInjected",
    "FI": "FaultInjected",
    "RL": "RateLimited",
    "UAEX": "UnauthorizedExternalService",
    "RLSE": "RateLimitServiceError",
    "DC": "DownstreamConnectionTermination",
    "URX": "UpstreamRetryLimitExceeded",
    "SI": "StreamIdleTimeout",
    "IH": "InvalidEnvoyRequestHeaders",
    "DPE": "DownstreamProtocolError",
    "UMSDR": "UpstreamMaxStreamDurationReached",
    "RFCF": "ResponseFromCacheFilter",
    "NFCF": "NoFilterConfigFound",
    "DT": "DurationTimeout",
    "UPE": "UpstreamProtocolError",
    "NC": "NoClusterFound",
    "OM": "OverloadManagerTerminated",
    "DF": "DnsResolutionFailed",
    "DO": "DropOverload",
    "DR": "DownstreamRemoteReset",
    "UDO": "UnconditionalDropOverload",
}

GRPC_SNAKE = (
    "OK CANCELLED UNKNOWN INVALID_ARGUMENT DEADLINE_EXCEEDED NOT_FOUND ALREADY_EXISTS PERMISSION_DENIED"
    " RESOURCE_EXHAUSTED FAILED_PRECONDITION ABORTED OUT_OF_RANGE UNIMPLEMENTED INTERNAL UNAVAILABLE DATA_LOSS"
    " UNAUTHENTICATED"
).split()
GRPC_CAMEL = (
    "OK Canceled Unknown InvalidArgument DeadlineExceeded NotFound AlreadyExists PermissionDenied ResourceExhausted"
    " FailedPrecondition Aborted OutOfRange Unimplemented Internal Unavailable DataLoss Unauthenticated"
).split()

# gRPC, doc/http-grpc-status-mapping.md; what is not here is UNKNOWN, a 200 without a status of gRPC too.
GRPC_OF_HTTP = {400: 13, 401: 16, 403: 7, 404: 12, 429: 14, 502: 14, 503: 14, 504: 14}

# Known to Envoy, and about what no request of a process tells: bytes on the wire, proxies' own connections, and
# durations between points that are one here.
NOT_KNOWN_HERE = frozenset(
    "CONNECTION_TERMINATION_DETAILS VIRTUAL_CLUSTER_NAME STREAM_ID TRACE_ID CONNECTION_ID UPSTREAM_CONNECTION_ID"
    " REQUEST_DURATION REQUEST_TX_DURATION ROUNDTRIP_DURATION DOWNSTREAM_HANDSHAKE_DURATION COMMON_DURATION"
    " UPSTREAM_WIRE_BYTES_SENT UPSTREAM_WIRE_BYTES_RECEIVED UPSTREAM_HEADER_BYTES_SENT UPSTREAM_HEADER_BYTES_RECEIVED"
    " DOWNSTREAM_WIRE_BYTES_SENT DOWNSTREAM_WIRE_BYTES_RECEIVED DOWNSTREAM_HEADER_BYTES_SENT"
    " DOWNSTREAM_HEADER_BYTES_RECEIVED UPSTREAM_DECOMPRESSED_HEADER_BYTES_SENT"
    " UPSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_SENT"
    " DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED BYTES_RETRANSMITTED PACKETS_RETRANSMITTED"
    " RESPONSE_TRAILERS_BYTES UPSTREAM_POOL_READY_DURATION CUSTOM_FLAGS FILTER_CHAIN_NAME LISTENER_NAME"
    " UPSTREAM_FILTER_STATE UPSTREAM_DETECTED_CLOSE_TYPE DOWNSTREAM_DETECTED_CLOSE_TYPE"
    " UPSTREAM_LOCAL_CLOSE_REASON DOWNSTREAM_LOCAL_CLOSE_REASON UPSTREAM_HOSTS_ATTEMPTED"
    " UPSTREAM_HOSTS_ATTEMPTED_WITHOUT_PORT UPSTREAM_HOST_NAMES_ATTEMPTED"
    " UPSTREAM_HOST_NAMES_ATTEMPTED_WITHOUT_PORT UPSTREAM_CONNECTION_IDS_ATTEMPTED"
    " UPSTREAM_CONNECTION_POOL_READY_DURATION START_TIME_LOCAL EMIT_TIME_LOCAL DOWNSTREAM_TRANSPORT_FAILURE_REASON"
    " TLS_JA3_FINGERPRINT TLS_JA4_FINGERPRINT SPAN_ID"
    " UPSTREAM_LOCAL_IP_SAN UPSTREAM_PEER_CERT_V_START UPSTREAM_PEER_CERT_V_END UPSTREAM_SERVER_NAME".split()
)
