"""What changes of response headers do to answers that no server gave: the real Envoy's and meshsdk's are the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.http.header_mutation.v3 import header_mutation_pb2  # noqa: F401 - JSON names them.
from google.protobuf import json_format

from meshsdk.balancing import Cluster

from .compare import compare
from .generate import CLUSTERS, FILTERS, OPTIONS
from .judge import EnvoyJudge, Request, running_judge
from .ours import OurRoutes, make_clusters, make_listener
from .test_generated_routes import static_cluster
from .upstream import EchoUpstreams

Sides = tuple[EnvoyJudge, dict[str, Cluster]]

_HTTP = "type.googleapis.com/envoy.extensions.filters.http"
TEXT: dict[str, Any] = {"status": 200, "body": {"inline_string": "hello"}}
ABORT = {"@type": f"{_HTTP}.fault.v3.HTTPFault", "abort": {"http_status": 418, "percentage": {"numerator": 100}}}
ABORT_AS_GRPC = {"@type": f"{_HTTP}.fault.v3.HTTPFault", "abort": {"grpc_status": 5, "percentage": {"numerator": 100}}}

REPLIES: dict[str, dict[str, Any]] = {
    "a direct response": {"direct_response": TEXT},
    "a direct response without a body": {"direct_response": {"status": 200}},
    "a direct response with a location": {"direct_response": {**TEXT, "status": 201}},
    "a redirect": {"redirect": {"host_redirect": "b"}},
    "a cluster that is not there": {"route": {"cluster": "nowhere"}},
    "an abort": {"route": {"cluster": "c0"}, "typed_per_filter_config": {"fault": ABORT}},
    "an abort with a gRPC status": {"route": {"cluster": "c0"}, "typed_per_filter_config": {"fault": ABORT_AS_GRPC}},
    "an abort before a direct response": {"direct_response": TEXT, "typed_per_filter_config": {"fault": ABORT}},
}


def adds(name: str, value: str, action: str) -> dict[str, Any]:
    return {"response_headers_to_add": [{"header": {"key": name, "value": value}, "append_action": action}]}


def filters(*mutations: dict[str, Any]) -> dict[str, Any]:
    config = {
        "@type": f"{_HTTP}.header_mutation.v3.HeaderMutationPerRoute",
        "mutations": {"response_mutations": list(mutations)},
    }
    return {"typed_per_filter_config": {"mutation": config}}


CHANGES: dict[str, dict[str, Any]] = {
    "remove the type": {"response_headers_to_remove": ["content-type"]},
    "append a type": adds("content-type", "text/x", "APPEND_IF_EXISTS_OR_ADD"),
    "add a type if there is none": adds("content-type", "text/x", "ADD_IF_ABSENT"),
    "overwrite a type if there is one": adds("content-type", "text/x", "OVERWRITE_IF_EXISTS"),
    "overwrite or add a type": adds("content-type", "text/x", "OVERWRITE_IF_EXISTS_OR_ADD"),
    "say the type": adds("x-type", "%RESP(content-type)%", "APPEND_IF_EXISTS_OR_ADD"),
    "remove the length": {"response_headers_to_remove": ["content-length"]},
    "say another length": adds("content-length", "99", "OVERWRITE_IF_EXISTS_OR_ADD"),
    "remove the location": {"response_headers_to_remove": ["location"]},
    "append a location": adds("location", "/x", "APPEND_IF_EXISTS_OR_ADD"),
    "add a location if there is none": adds("location", "/x", "ADD_IF_ABSENT"),
    "add a gRPC status and message": {
        "response_headers_to_add": [
            {"header": {"key": "grpc-status", "value": "7"}},
            {"header": {"key": "grpc-message", "value": "mine"}},
        ]
    },
    "a filter removes the type": filters({"remove": "content-type"}),
    "a filter appends a type": filters({"append": {"header": {"key": "content-type", "value": "text/x"}}}),
    "a filter says the type": filters({"append": {"header": {"key": "x-type", "value": "%RESP(content-type)%"}}}),
}


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sides]:
    folder = tmp_path_factory.mktemp("judge")
    with EchoUpstreams(folder, CLUSTERS) as upstreams:
        configs = [static_cluster(name, path) for name, path in upstreams.paths.items()]
        with running_judge(folder, OPTIONS, configs, FILTERS) as judge:
            yield judge, make_clusters(configs)


@pytest.mark.parametrize("changes", CHANGES)
@pytest.mark.parametrize("reply", REPLIES)
def test_a_local_reply_has_the_same_headers(reply: str, changes: str, sides: Sides) -> None:
    judge, clusters = sides
    per_filter = {
        **REPLIES[reply].get("typed_per_filter_config", {}),
        **CHANGES[changes].get("typed_per_filter_config", {}),
    }
    route = {"match": {"prefix": "/"}, **REPLIES[reply], **CHANGES[changes], "typed_per_filter_config": per_filter}
    message = json_format.ParseDict(
        {"validate_clusters": False, "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [route]}]},
        route_pb2.RouteConfiguration(),
    )
    ours = OurRoutes(make_listener(OPTIONS[0], FILTERS), message, clusters)
    assert judge.configure("plain", message), judge.refusal("plain")
    asked = [
        Request("GET", "a", "/"),
        Request("HEAD", "a", "/"),
        Request("POST", "a", "/", (("content-type", "application/grpc"),)),
    ]
    for request, theirs in zip(asked, judge.ask("plain", asked), strict=True):
        found = ours.decide(request)
        if request.method == "HEAD":
            found = type(found)(found.status, response_headers=found.response_headers)
        assert not compare(theirs, found), (request, theirs, found)
