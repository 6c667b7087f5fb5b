"""The labels of Istio's standard metrics, in the order in which rows have them.

Source: Envoy contrib/istio/filters/http/istio_stats/source/istio_stats.cc.
"""

from __future__ import annotations

from .cells import HTTP, MESSAGES

__all__ = ["MESSAGE_LABELS", "REQUEST_LABELS", "STANDARD_LABELS"]

_SIDE = "workload workload_namespace principal app version canonical_service canonical_revision cluster".split()
MESSAGE_LABELS = (
    "reporter",
    *(f"source_{name}" for name in _SIDE),
    *(f"destination_{name}" for name in _SIDE),
    "destination_service",
    "destination_service_name",
    "destination_service_namespace",
)
REQUEST_LABELS = (
    *MESSAGE_LABELS,
    "request_protocol",
    "response_code",
    "grpc_response_status",
    "response_flags",
    "connection_security_policy",
)

STANDARD_LABELS = {HTTP: REQUEST_LABELS, MESSAGES: MESSAGE_LABELS}
