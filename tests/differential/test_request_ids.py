"""Request ids, and what they say of a request's trace: the real Envoy and meshsdk make the same of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from envoy.config.route.v3 import route_pb2
from envoy.extensions.request_id.uuid.v3 import uuid_pb2  # noqa: F401 - JSON names it.
from google.protobuf import json_format

from meshsdk.balancing import Cluster

from .generate import FILTERS
from .judge import Decision, EnvoyJudge, ManagerOptions, Request, running_judge
from .ours import OurRoutes, make_clusters, make_listener
from .test_generated_routes import static_cluster
from .upstream import EchoUpstreams


def _uuid_config(**fields: Any) -> dict[str, Any]:
    kind = "type.googleapis.com/envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig"
    return {"request_id_extension": {"typed_config": {"@type": kind, **fields}}}


def _sampling(**shares: float) -> dict[str, Any]:
    return {"tracing": {f"{name}_sampling": {"value": value} for name, value in shares.items()}}


MADE: dict[str, Any] = {"generate_request_id": True}
OPTIONS = [
    ManagerOptions("made", MADE),
    ManagerOptions("not_made", {"generate_request_id": False, **_sampling(random=100)}),
    ManagerOptions("all", {**MADE, **_sampling(random=100)}),
    ManagerOptions("none", {**MADE, **_sampling(random=0)}),
    ManagerOptions("half", {**MADE, **_sampling(random=50)}),
    ManagerOptions("a_hundredth_of_a_percent", {**MADE, **_sampling(random=0.01)}),
    ManagerOptions("overall_none", {**MADE, **_sampling(random=100, overall=0)}),
    ManagerOptions("overall_half", {**MADE, **_sampling(random=100, overall=50)}),
    ManagerOptions("client_none", {**MADE, **_sampling(random=0, client=0)}),
    ManagerOptions("not_packed", {**MADE, **_sampling(random=100), **_uuid_config(pack_trace_reason=False)}),
    ManagerOptions(
        "not_by_id", {**MADE, **_sampling(random=0), **_uuid_config(use_request_id_for_trace_sampling=False)}
    ),
]
NAMES = [option.name for option in OPTIONS]

IDS = [
    None,
    "",
    "mine",
    "zzzzzzzz-not-hexadecimal",
    "0badcafe but no UUID",
    *(
        f"{first}-2222-{digit}333-8444-555555555555"
        for first in ("00000000", "00001387", "ffffffff")
        for digit in "49abf"
    ),
    "0000_000-2222-4333-8444-555555555555",
    "FFFFFFFF-2222-4333-8444-555555555555",
]

Sides = tuple[EnvoyJudge, dict[str, Cluster]]


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sides]:
    folder = tmp_path_factory.mktemp("judge")
    with EchoUpstreams(folder, ["c0"]) as upstreams:
        configs = [static_cluster(name, path) for name, path in upstreams.paths.items()]
        with running_judge(folder, OPTIONS, configs, FILTERS) as judge:
            yield judge, make_clusters(configs)


def _configuration(**route: Any) -> route_pb2.RouteConfiguration:
    routes = [{"match": {"prefix": "/"}, "route": {"cluster": "c0"}, **route}]
    virtual_hosts = [{"name": "v", "domains": ["*"], "routes": routes}]
    return json_format.ParseDict({"virtual_hosts": virtual_hosts}, route_pb2.RouteConfiguration())


def _sent() -> list[Request]:
    names, requests = ("x-client-trace-id", "x-envoy-force-trace"), []
    for known in IDS:
        headers = () if known is None else (("x-request-id", known),)
        requests += [
            Request("GET", "a", "/", (*headers, *((name, "x") for name in extra)))
            for extra in ((), names[:1], names[1:])
        ]
    return requests


def _ids(decision: Decision) -> list[str]:
    return [value for name, value in decision.headers if name == "x-request-id"]


_MADE = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-([49ab])[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def _comparable(ids: list[str], request: Request) -> list[str]:
    """Ids with what chance has made of them left out."""
    given = dict(request.headers).get("x-request-id")
    if given:
        return ids
    made = "".join(ids)
    match = _MADE.fullmatch(made)
    return [f"made {match[1]}" if match else made]


def _agree(
    option: ManagerOptions, message: route_pb2.RouteConfiguration, sides: Sides, *, by_chance: bool
) -> list[list[str]]:
    """What both make of the ids, those that were given; `by_chance` leaves out those that are made."""
    judge, clusters = sides
    ours = OurRoutes(make_listener(option, FILTERS), message, clusters)
    assert judge.configure(option.name, message), judge.refusal(option.name)
    asked = [one for one in _sent() if not by_chance or dict(one.headers).get("x-request-id")]
    found = []
    for request, theirs in zip(asked, judge.ask(option.name, asked), strict=True):
        mine = _comparable(_ids(ours.decide(request)), request)
        assert mine == _comparable(_ids(theirs), request), request
        found.append(mine)
    return found


BY_CHANCE = ("half", "overall_half", "a_hundredth_of_a_percent")


@pytest.mark.parametrize("name", NAMES)
def test_ids_are_made_kept_and_marked_as_envoy_does(name: str, sides: Sides) -> None:
    option = next(one for one in OPTIONS if one.name == name)
    found = _agree(option, _configuration(), sides, by_chance=name in BY_CHANCE)
    mark = "4" if name == "overall_none" else "9"
    assert [f"00000000-2222-{mark}333-8444-555555555555"] in found


@pytest.mark.parametrize("share", [0, 1, 5000, 1_000_000])
def test_a_routes_shares_take_the_place_of_its_managers(share: int, sides: Sides) -> None:
    option = next(one for one in OPTIONS if one.name == "all")
    random = {"numerator": share, "denominator": "MILLION"}
    message = _configuration(tracing={"random_sampling": random, "client_sampling": {"numerator": 0}})
    _agree(option, message, sides, by_chance=share not in (0, 1_000_000))
