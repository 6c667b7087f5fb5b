"""What connection managers and routes say of request ids and traces, read."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2  # noqa: F401 - JSON names it in an Any
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.request_id.uuid.v3 import uuid_pb2  # noqa: F401 - JSON names it in an Any
from google.protobuf import json_format

from meshsdk.errors import ResourceError
from meshsdk.resources import Listener, ResourceType, RouteConfiguration, decode
from meshsdk.resources.tracing import CustomTag, RequestIds, Share, TagSource
from meshsdk.routing import RouteTable

ROUTER = {
    "name": "router",
    "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
}


def parsed(**fields: Any) -> Listener:
    rds = {"route_config_name": "r", "config_source": {"ads": {}}}
    manager = {"stat_prefix": "m", "rds": rds, "http_filters": [ROUTER], **fields}
    message = listener_pb2.Listener(name="l")
    message.api_listener.api_listener.Pack(
        json_format.ParseDict(manager, http_connection_manager_pb2.HttpConnectionManager())
    )
    listener = decode(ResourceType.LISTENER, message.SerializeToString())
    assert isinstance(listener, Listener)
    return listener


def test_without_a_word_of_it_ids_are_made_and_nothing_is_said_of_traces() -> None:
    listener = parsed()
    assert listener.request_ids == RequestIds()
    assert listener.tracing is None
    assert listener.notes == ()


def test_shares_are_rounded_as_envoy_rounds_them() -> None:
    percents = {
        "client_sampling": {"value": 12.6},
        "random_sampling": {"value": 0.015},
        "overall_sampling": {"value": 99.999},
    }
    tracing = parsed(tracing=percents).tracing
    assert tracing is not None
    assert (tracing.client, tracing.random, tracing.overall) == (
        Share(13, 100),
        Share(2, 10_000),
        Share(10_000, 10_000),
    )


def test_tags_of_every_kind_are_read() -> None:
    tags = [
        {"tag": "a", "literal": {"value": "x"}},
        {"tag": "b", "environment": {"name": "B", "default_value": "d"}},
        {"tag": "c", "request_header": {"name": "X-C"}},
        {"tag": "d", "metadata": {"kind": {"cluster": {}}, "metadata_key": {"key": "k", "path": [{"key": "p"}]}}},
        {"tag": "e", "value": "%PROTOCOL%"},
    ]
    tracing = parsed(tracing={"custom_tags": tags}).tracing
    assert tracing is not None
    assert tracing.tags == (
        CustomTag("a", TagSource.LITERAL, "x"),
        CustomTag("b", TagSource.ENVIRONMENT, "B", default="d"),
        CustomTag("c", TagSource.HEADER, "x-c"),
        CustomTag("d", TagSource.CLUSTER_METADATA, "k", ("p",)),
        CustomTag("e", TagSource.FORMAT, "%PROTOCOL%"),
    )


def test_what_is_not_acted_on_is_told() -> None:
    listener = parsed(tracing={"verbose": True, "spawn_upstream_span": True})
    assert [note.rpartition(".")[2] for note in listener.notes] == [
        "verbose: is not acted on",
        "spawn_upstream_span: is not acted on",
    ]


def test_an_extension_of_another_kind_is_told_of_and_ids_are_uuids() -> None:
    other = {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}
    listener = parsed(request_id_extension={"typed_config": other})
    [note] = listener.notes
    assert "request_id_extension" in note
    assert listener.request_ids == RequestIds()


@pytest.mark.parametrize(
    ("tracing", "problem"),
    [
        ({"custom_tags": [{"tag": "a"}]}, "custom_tags[0]"),
        ({"custom_tags": [{"tag": "a", "metadata": {"metadata_key": {"key": "k", "path": [{"key": "p"}]}}}]}, "kind"),
        ({"custom_tags": [{"tag": f"t{n}", "literal": {"value": "x"}} for n in range(129)]}, "129 tags"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_its_field(tracing: dict[str, Any], problem: str) -> None:
    with pytest.raises(ResourceError) as refused:
        parsed(tracing=tracing)
    assert problem in str(refused.value)


def test_a_format_that_is_none_refuses_the_routes() -> None:
    listener = parsed(tracing={"custom_tags": [{"tag": "a", "value": "%NO_SUCH_OPERATOR%"}]})
    message = route_pb2.RouteConfiguration(name="r")
    routes = decode(ResourceType.ROUTE_CONFIGURATION, message.SerializeToString())
    assert isinstance(routes, RouteConfiguration)
    with pytest.raises(ResourceError) as refused:
        RouteTable(listener, routes)
    assert "custom tag a" in str(refused.value)
