"""Load that nobody takes for the moment is told later, and load that nobody wants is not kept."""

from __future__ import annotations

from contextlib import ExitStack

from ..differential.subjects import Upstream
from ..lrs import LoadReports
from ..patience import eventually
from .test_load_reports import World, by_path, service_a, upstream

__all__ = ["upstream"]


def test_what_happens_while_no_server_takes_reports_is_told_to_the_next_one(
    stack: ExitStack, upstream: Upstream
) -> None:
    lrs = LoadReports(send_all_clusters=True)
    world = World(stack, lrs, *service_a(upstream.port))
    world.begin()
    world.send("/ok")
    lrs.wait_for("a", succeeded=1, issued=1)
    lrs.asks_nothing = True
    lrs.end()
    eventually(lambda: len(lrs.firsts) == 2)
    world.send("/ok", "/ok", "/503")
    lrs.asks_nothing = False
    lrs.end()
    lrs.wait_for("a", succeeded=3, failed=1, issued=4)


def test_the_last_requests_of_a_cluster_that_leaves_are_told(stack: ExitStack, upstream: Upstream) -> None:
    lrs = LoadReports(send_all_clusters=True, interval=3600.0)
    world = World(stack, lrs, *service_a(upstream.port))
    world.begin()
    world.send("/ok", "/ok")
    world.ads.publish(*service_a(upstream.port, lrs_server=None))
    lrs.wait_for("a", succeeded=2, issued=2)
    eventually(lambda: lrs.streams == 0)


def test_endpoints_of_which_nobody_is_told_are_forgotten_when_they_leave(stack: ExitStack) -> None:
    first, second, third = (stack.enter_context(Upstream(by_path)) for _ in range(3))
    world = World(stack, LoadReports(clusters=["other"]), *service_a(first.port))
    world.begin()
    load = world.mesh._runtime.directory.clusters["a"].load
    assert load is not None
    world.send("/ok")
    for one in (second, third):
        world.ads.publish(*service_a(one.port))
        eventually(lambda one=one: world.client.get("http://a").status_code and one.received)  # type: ignore[misc]
    eventually(lambda: len(load.endpoints) <= 2)
    assert first.port not in [one.address.port for one in load.endpoints]
