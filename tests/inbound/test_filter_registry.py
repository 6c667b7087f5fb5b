"""A new HTTP filter is one file in resources/filters, one in inbound/filters, and a row in either registry."""

from __future__ import annotations

import sys
import types
from typing import Any, ClassVar

import pytest
from google.protobuf import wrappers_pb2
from msgspec import Struct

from meshsdk.exchange.local_reply import LocalReply
from meshsdk.inbound.filters import registry as inbound_registry
from meshsdk.inbound.filters.compiling import FilterStates, Place, Said, Step
from meshsdk.inbound.filters.registry import compile_steps
from meshsdk.inbound.request import InboundRequest
from meshsdk.resources.filters import registry as resources_registry
from meshsdk.resources.filters.registry import Side, parse_filter
from meshsdk.resources.filters.settings import FilterSetting, HttpFilter
from meshsdk.resources.notes import Notes
from meshsdk.resources.values import unpack


class Teapot(FilterSetting, Struct, frozen=True):
    """What the toy's file in resources/filters has: settings, and how they are parsed."""

    stands_beside_routes: ClassVar[bool] = True

    body: str


def parse_teapot(container: Any, where: str, notes: Notes) -> Teapot:
    return Teapot(unpack(container, wrappers_pb2.StringValue, where).value)


def compile_filter(own: FilterSetting, said: Said, place: Place) -> Step | None:
    """What the toy's file in inbound/filters has."""
    assert isinstance(own, Teapot)
    bodies = [one.body for one in said if isinstance(one, Teapot)]

    def brew(request: InboundRequest) -> LocalReply:
        return LocalReply(418, b"".join(one.encode() for one in [own.body, *bodies]))

    return brew


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy's files, and its rows."""
    for package, names in (
        ("meshsdk.resources.filters.teapot", {"parse_teapot": parse_teapot}),
        ("meshsdk.inbound.filters.teapot", {"compile_filter": compile_filter}),
    ):
        module = types.ModuleType(package)
        vars(module).update(names)
        monkeypatch.setitem(sys.modules, package, module)
    kind = wrappers_pb2.StringValue.DESCRIPTOR.full_name
    monkeypatch.setitem(resources_registry._OF_SERVERS, kind, resources_registry._by("teapot", "parse_teapot"))
    monkeypatch.setitem(inbound_registry._COMPILERS, "google.protobuf", inbound_registry._by("teapot"))


def teapot_filter(body: str) -> HttpFilter | None:
    from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2

    message = http_connection_manager_pb2.HttpFilter(name="teapot")
    message.typed_config.Pack(wrappers_pb2.StringValue(value=body))
    return parse_filter(message, "filter", Notes(), Side.SERVER)


@pytest.mark.usefixtures("toy")
def test_a_toy_filter_is_parsed_and_carried_out_by_its_two_rows() -> None:
    made = teapot_filter("short")
    assert made is not None
    said = (HttpFilter("teapot", Teapot(" and stout"), package="google.protobuf"),)
    [step] = compile_steps([made], [said], FilterStates(), "route").steps
    reply: Any = step(None)  # type: ignore[arg-type]
    assert (reply.status, reply.body) == (418, b"short and stout")


def test_every_filter_that_servers_parse_has_its_row_among_those_that_are_carried_out() -> None:
    packages = {kind.rpartition(".")[0] for kind in resources_registry._OF_SERVERS}
    assert packages == set(inbound_registry._COMPILERS)
