"""Where retries go: host predicates and priorities, as function calls."""

from __future__ import annotations

import random
from typing import Any

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.retry.host.omit_canary_hosts.v3 import (  # noqa: F401 - JSON names it in an Any
    omit_canary_hosts_pb2,
)
from envoy.extensions.retry.host.previous_hosts.v3 import (  # noqa: F401 - JSON names it in an Any
    previous_hosts_pb2,
)
from envoy.extensions.retry.priority.previous_priorities.v3 import (  # noqa: F401 - JSON names it in an Any
    previous_priorities_config_pb2,
)
from google.protobuf import json_format

from meshsdk.balancing import Cluster
from meshsdk.exchange import Attempt, Exchange, LocalReply, Outcome
from meshsdk.exchange.directory import begin
from meshsdk.resources import Listener, ResourceType, StaticDiscovery, decode
from meshsdk.routing import RequestHead, RouteTable

HOST = "type.googleapis.com/envoy.extensions.retry.host"
PRIORITY = "type.googleapis.com/envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig"


def endpoint(port: int, **lb: Any) -> dict[str, Any]:
    return {
        "endpoint": {"address": {"socket_address": {"address": "10.0.0.1", "port_value": port}}},
        "metadata": {"filter_metadata": {"envoy.lb": lb}},
    }


def exchange(localities: list[dict[str, Any]], policy: dict[str, Any]) -> Exchange:
    config = {
        "name": "c",
        "type": "STATIC",
        "load_assignment": {"cluster_name": "c", "endpoints": localities},
    }
    message = json_format.ParseDict(config, cluster_pb2.Cluster())
    parsed = decode(ResourceType.CLUSTER, message.SerializeToString())
    assert isinstance(parsed.discovery, StaticDiscovery)
    cluster = Cluster(parsed, random.Random(1).random)
    cluster.update(parsed, parsed.discovery.endpoints)
    action = {"cluster": "c", "retry_policy": {"retry_on": "5xx", "num_retries": 9, **policy}}
    routes = {
        "name": "r",
        "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": action}]}],
    }
    table = RouteTable(
        Listener("l"),
        decode(
            ResourceType.ROUTE_CONFIGURATION,
            json_format.ParseDict(routes, route_pb2.RouteConfiguration()).SerializeToString(),
        ),
    )
    begun = begin(table, {"c": cluster}, RequestHead("GET", "http", "h", "/"), random.Random(2).random)
    assert isinstance(begun, Exchange)
    return begun


def ports_tried(one: Exchange, retries: int) -> list[int]:
    tried: list[int] = []
    attempt: Attempt | LocalReply = one.begin(0.0)
    for _ in range(retries + 1):
        assert isinstance(attempt, Attempt)
        tried.append(attempt.endpoint.address.port)
        attempt.finish()
        assert one.attempt_done(Outcome(status=503), 0.1)
        attempt = one.next_attempt(0.2)
    return tried


def predicate(kind: str, **config: Any) -> dict[str, Any]:
    return {
        "retry_host_predicate": [{"name": "p", "typed_config": {"@type": f"{HOST}.{kind}", **config}}],
        "host_selection_retry_max_attempts": 20,
    }


def test_previous_hosts_are_left_out_until_all_were_tried() -> None:
    members = [{"lb_endpoints": [endpoint(port) for port in (1, 2, 3)]}]
    tried = ports_tried(exchange(members, predicate("previous_hosts.v3.PreviousHostsPredicate")), 2)
    assert sorted(tried) == [1, 2, 3]


@pytest.mark.parametrize(
    "policy",
    [
        predicate("omit_canary_hosts.v3.OmitCanaryHostsPredicate"),
        predicate(
            "omit_host_metadata.v3.OmitHostMetadataConfig",
            metadata_match={"filter_metadata": {"envoy.lb": {"canary": True}}},
        ),
    ],
)
def test_retries_leave_marked_hosts_out(policy: dict[str, Any]) -> None:
    members = [{"lb_endpoints": [endpoint(1, canary=True), endpoint(2), endpoint(3, canary=False)]}]
    assert 1 not in ports_tried(exchange(members, policy), 8)[1:]


def test_retries_go_to_priorities_that_were_not_tried() -> None:
    members = [{"lb_endpoints": [endpoint(1 + priority)], "priority": priority} for priority in range(3)]
    policy = {"retry_priority": {"name": "p", "typed_config": {"@type": PRIORITY, "update_frequency": 1}}}
    assert ports_tried(exchange(members, policy), 2) == [1, 2, 3]
    policy = {"retry_priority": {"name": "p", "typed_config": {"@type": PRIORITY, "update_frequency": 2}}}
    assert ports_tried(exchange(members, policy), 3) == [1, 1, 2, 2]
