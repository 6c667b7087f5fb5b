"""What is kept, and the server that answers after all: the rules are those of a first start."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from envoy.service.discovery.v3 import discovery_pb2

from meshsdk.resources import ResourceType, decode
from meshsdk.xds import CachedResource, Status

from ..patience import PATIENCE, eventually
from ..processes import free_ports
from ..xds.test_ads_client import CLUSTER, Client, MakeClient, ScriptedAds, cluster
from ..xds.test_ads_client import make_client as make_client
from ..xds.test_delta import FEATURES, ScriptedDelta, named

LONG_AGO = time.time() - 3600.0


def started_without(port: int, make_client: MakeClient, **options: Any) -> Client:
    """A client that has `a`, and that there is no `b`, from another process; its server is away."""
    client = make_client(port, **options)
    client.subscribe(cluster={"a", "b"})
    packed = cluster("a").value

    def restore() -> None:
        client.cache.restore(CLUSTER, "a", decode(CLUSTER, packed), "9", packed, LONG_AGO)
        client.cache.remove(CLUSTER, "b", Status.DOES_NOT_EXIST, "there was none", LONG_AGO)

    eventually(lambda: client.source.failures)
    client.loop.post(restore)
    eventually(lambda: client.cache.kept == 2)
    return client


def entry(client: Client, name: str, holds: Callable[[CachedResource], object]) -> CachedResource:
    found: CachedResource = eventually(
        lambda: (one := client.cache.get(CLUSTER, name)) is not None and holds(one) and one
    )
    return found


def test_no_server_is_told_the_versions_of_another_process(stack: ExitStack, make_client: MakeClient) -> None:
    [port] = free_ports(1)
    client = started_without(port, make_client, features=FEATURES)
    ads = ScriptedDelta(port)
    stack.callback(ads.stop)
    request = ads.request()
    assert set(request.resource_names_subscribe) == {"a", "b"}
    assert not request.initial_resource_versions
    ads.send_delta(CLUSTER, "n1", named("a", cluster("a"), "9"))
    confirmed = entry(client, "a", lambda one: one.status is Status.ACKED)
    assert (confirmed.version, confirmed.kept_at) == ("9", 0.0)


def test_what_is_kept_outlives_a_server_that_connects_and_says_nothing(
    stack: ExitStack, make_client: MakeClient
) -> None:
    [port] = free_ports(1)
    client = started_without(port, make_client, does_not_exist_seconds=0.1)
    ads = ScriptedAds(port)
    stack.callback(ads.stop)
    ads.request()
    later = threading.Event()
    # By the same clock and on the same thread as the timer that must not end it.
    client.loop.post(lambda: client.loop.call_later(0.5, later.set))
    assert later.wait(PATIENCE)
    kept = entry(client, "a", lambda one: True)
    assert (kept.status, kept.kept_at) == (Status.REQUESTED, LONG_AGO)


def test_what_a_server_leaves_out_goes_by_the_timer(stack: ExitStack, make_client: MakeClient) -> None:
    [port] = free_ports(1)
    client = started_without(port, make_client, features=FEATURES, does_not_exist_seconds=0.5)
    ads = ScriptedDelta(port)
    stack.callback(ads.stop)
    ads.request()
    ads.send_delta(CLUSTER, "n1", named("b", cluster("b")))
    gone = entry(client, "a", lambda one: one.status is Status.DOES_NOT_EXIST)
    assert gone.resource is None
    assert entry(client, "b", lambda one: one.status is Status.ACKED).kept_at == 0.0


def test_of_what_there_was_not_a_server_that_is_silent_is_asked_once_more(
    stack: ExitStack, make_client: MakeClient
) -> None:
    [port] = free_ports(1)
    client = started_without(port, make_client, features=FEATURES)
    ads = ScriptedDelta(port)
    ads.beside = lambda request: discovery_pb2.DiscoveryResponse(type_url=request.type_url, nonce="x")
    stack.callback(ads.stop)
    ads.request()
    ads.send_delta(CLUSTER, "n1", named("a", cluster("a")))
    confirmed = entry(client, "b", lambda one: not one.kept_at)
    assert confirmed.status is Status.DOES_NOT_EXIST


def test_a_bad_update_leaves_what_was_kept_in_use(stack: ExitStack, make_client: MakeClient) -> None:
    [port] = free_ports(1)
    client = started_without(port, make_client)
    ads = ScriptedAds(port)
    stack.callback(ads.stop)
    ads.request()
    ads.send(CLUSTER, "10", cluster("a", type="STATIC", eds_cluster_config=None))
    refused = entry(client, "a", lambda one: one.status is Status.NACKED)
    assert refused.resource is not None
    assert (refused.version, refused.failed_version, refused.kept_at) == ("9", "10", LONG_AGO)
    assert client.cache.counts[ResourceType.CLUSTER, Status.NACKED] == 1
