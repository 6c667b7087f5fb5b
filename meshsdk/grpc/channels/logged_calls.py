"""What an access log is told of a call that goes out: what a sidecar's would say, as far as grpc-core tells it.

It does not tell how often it tried, by which connection, or what it calls itself (user-agent). Sizes are those of
messages before compression.

Source: Envoy source/common/router/router.cc (onUpstreamReset), and what the real Envoy writes in each case.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import grpc

from ...access_log import Entry, Headers, Steady
from ...balancing import Cluster, Endpoint
from ...exchange import Exchange, LocalReply
from ...exchange.considered import Considered
from ...resources import Listener
from ...routing import RequestHead, RouteTable
from ...telemetry.istio_metrics import Outcome
from ..message_tally import OF_MESH, STATUS_LINE, size_of_metadata

__all__ = ["Answer", "Tried", "WayOfCall", "entry_of", "refused_entry", "size_of_answer"]

Metadata = Iterable[tuple[str, str | bytes]] | None
Timing = tuple[float, float, float | None]

_PROTOCOL = "HTTP/2"
_BEFORE = "upstream_reset_before_response_started"
_DETAILS = {
    "": "via_upstream",
    "DC": "downstream_remote_disconnect",
    "UT": "response_timeout",
    "UH": "no_healthy_upstream",
    "UC": f"{_BEFORE}{{connection_termination}}",
}

# What an operating system says of a connection, in the words of a call's status.
_REFUSAL = re.compile(r"Failed to connect to remote host: (?:connect: )?([A-Z][A-Za-z ]*[a-z])")


class WayOfCall(NamedTuple):
    """What a call was decided by.

    Attributes:
        exchange: The decision; None where grpc-core makes it.
        table: The target's routes; None where it has none.
        clusters: That they may lead to.
    """

    exchange: Exchange | None
    table: RouteTable | None
    clusters: Mapping[str, Cluster]

    @property
    def listener(self) -> Listener | None:
        """What the target's listener says."""
        return self.table.listener if self.table is not None else None

    def considered(self, head: RequestHead) -> Considered | None:
        """What grpc-core has decided by; None where it has no routes."""
        return Considered(head, self.table, self.clusters) if self.table is not None else None


class Tried(NamedTuple):
    """Where a call went, as far as it is known."""

    way: WayOfCall
    endpoint: Endpoint | None
    cluster: Cluster | None


class Answer(NamedTuple):
    """What came of it.

    Attributes:
        is_by_server: A server has answered.
        flag: Envoy's, of its end.
        message: Of the call's status.
    """

    initial: Metadata = ()
    trailing: Metadata = ()
    is_by_server: bool = False
    flag: str = ""
    message: str = ""
    code: grpc.StatusCode | None = None


def size_of_answer(initial: Metadata, trailing: Metadata) -> int:
    """Of its heads, as HTTP/1.1 would write them."""
    return STATUS_LINE + size_of_metadata(initial) + size_of_metadata(trailing)


def entry_of(
    head: RequestHead, tried: Tried, outcome: Outcome, answer: Answer, sizes: tuple[int, int], timing: Timing
) -> Entry:
    """The entry of a call that is over.

    Args:
        head: As it went out.
        tried: Where.
        outcome: How metrics say that it ended.
        answer: What came.
        sizes: Bytes of the messages of request and response.
        timing: When it ended, in seconds since the epoch; how long it took; and how long until the response's head.
    """
    details = _DETAILS.get(answer.flag, "via_upstream")
    failure = ""
    if answer.flag == "UF":
        refusal = _REFUSAL.search(answer.message)
        failure = f"delayed connect error: {refusal[1]}" if refusal is not None else ""
        told = f"remote connection failure|{failure}" if failure else "remote connection failure"
        details = f"{_BEFORE}{{{told}}}".replace(" ", "_")
    steady = Steady(head, outcome.status, outcome.flags, details, _PROTOCOL)
    steady.failure = failure
    _tell_way(steady, head, tried)
    ended, seconds, to_head = timing
    headers, trailers = _headers(answer.initial), _headers(answer.trailing)
    if outcome.grpc_status:
        status = ((b"grpc-status", outcome.grpc_status.encode()),)
        trailers, headers = ((*trailers, *status), headers) if answer.is_by_server else (trailers, (*headers, *status))
    return Entry(steady, head, headers, trailers, *sizes, ended, seconds, to_head)


def refused_entry(head: RequestHead, reply: LocalReply, outcome: Outcome, timing: Timing) -> Entry:
    """The entry of a call that is answered in a server's place, before its messages are read."""
    steady = Steady(head, outcome.status, outcome.flags, reply.details, _PROTOCOL)
    # Whose cluster is not there has none, not even by name.
    steady.cluster = "" if reply.flag == "NC" else reply.cluster
    steady.route = reply.route
    ended, seconds, _ = timing
    return Entry(steady, head, reply.as_grpc().headers, (), 0, 0, ended, seconds, None)


def _tell_way(steady: Steady, head: RequestHead, tried: Tried) -> None:
    exchange = tried.way.exchange
    if exchange is not None:
        route = exchange.route
    else:
        considered = tried.way.considered(head)
        route = considered.route if considered is not None else None
    steady.route = route.route.name if route is not None else ""
    if tried.cluster is not None:
        steady.cluster = tried.cluster.name
        steady.cluster_metadata = tried.cluster.config.metadata
    endpoint = tried.endpoint
    steady.attempts = int(not steady.flags.endswith("UH"))
    if endpoint is not None:
        steady.host, steady.hostname = endpoint.name, endpoint.config.hostname
        steady.host_metadata = endpoint.config.metadata


def _headers(metadata: Metadata) -> Headers:
    return [(name.encode("latin-1", "replace"), _raw(value)) for name, value in _plain(metadata)]


def _plain(metadata: Metadata) -> Iterable[tuple[str, Any]]:
    return ((entry[0], entry[1]) for entry in metadata or () if entry[0] not in OF_MESH)


def _raw(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode("latin-1", "replace")
