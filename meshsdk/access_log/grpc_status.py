"""The status of a gRPC call."""

from __future__ import annotations

from .entry import Entry
from .tables import GRPC_OF_HTTP

__all__ = ["grpc_number"]


def grpc_number(entry: Entry) -> int:
    """As trailers say, or the headers of an answer without a body, or as HTTP's means."""
    said = next((value for name, value in entry.trailers if name.lower() == b"grpc-status"), None)
    said = entry.response_header(b"grpc-status") if said is None else said
    if said is not None and said.isdigit() and len(said) < 4:
        return int(said)
    return GRPC_OF_HTTP.get(entry.steady.status, 2)
