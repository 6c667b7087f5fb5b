"""Differences that are meant: docs/envoy-differences.md names each with the test that pins it, many of them here."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from ..patience import PATIENCE
from .subjects import SUBJECTS, Answer, Subject, Upstream, cluster, running, take_over_health

Both = Callable[..., dict[str, Subject]]


@pytest.fixture
def both(tmp_path: Path, stack: ExitStack) -> Both:
    """Starts both sides with the same configuration."""

    def begin(clusters: list[dict[str, Any]], action: dict[str, Any], **options: Any) -> dict[str, Subject]:
        routes = [{"match": {"prefix": "/"}, "route": action}]
        return {name: stack.enter_context(running(name, tmp_path, clusters, routes, **options)) for name in SUBJECTS}

    return begin


def test_envoy_tells_upstreams_about_itself_and_meshsdk_does_not(both: Both, stack: ExitStack) -> None:
    server = stack.enter_context(Upstream())
    for side in both([cluster("c", server.port)], {"cluster": "c"}).values():
        side.get()
    theirs, ours = (set(request.headers) for request in server.received)
    assert (
        theirs - ours
        == {
            "x-forwarded-for",
            "x-forwarded-proto",
            "x-envoy-expected-rq-timeout-ms",
            "x-envoy-internal",
        }
        - ours
    )
    assert ours <= theirs | {"connection"}


def test_envoy_tells_callers_about_itself_and_meshsdk_does_not(both: Both, stack: ExitStack) -> None:
    server = stack.enter_context(Upstream())
    sides = both([cluster("c", server.port)], {"cluster": "c"})
    theirs, ours = (set(side.get().headers) for side in sides.values())
    assert theirs - ours == {"x-envoy-upstream-service-time", "server", "date"}


def test_a_connection_that_fails_is_a_503_of_envoy_and_an_exception_of_httpx(both: Both) -> None:
    sides = both([cluster("c", 1)], {"cluster": "c"})
    assert sides["envoy"].get().status_code == 503
    with pytest.raises(httpx.ConnectError):
        sides["meshsdk"].get()


def test_a_reset_is_a_503_of_envoy_and_an_exception_of_httpx(both: Both, stack: ExitStack) -> None:
    server = stack.enter_context(Upstream(lambda request, number: Answer(reset=True)))
    sides = both([cluster("c", server.port)], {"cluster": "c"})
    assert sides["envoy"].client.post(f"http://{sides['envoy'].host}/").status_code == 503
    with pytest.raises(httpx.RemoteProtocolError):
        sides["meshsdk"].client.post(f"http://{sides['meshsdk'].host}/")


def test_changes_of_health_count_at_once_and_not_once_a_second(both: Both, stack: ExitStack) -> None:
    servers = [stack.enter_context(Upstream(lambda request, number: Answer(500))) for _ in range(3)]
    detection = {"consecutive_5xx": 1, "base_ejection_time": "30s", "max_ejection_percent": 100}
    config = cluster(
        "c",
        *(server.port for server in servers),
        outlier_detection=detection,
        common_lb_config={"healthy_panic_threshold": {"value": 0}},
    )
    side = both([config], {"cluster": "c"})["meshsdk"]
    assert side.mesh is not None
    for _ in range(3):
        side.get()
        take_over_health(side.mesh)
    assert (side.get().status_code, [len(server.received) for server in servers]) == (503, [1, 1, 1])


def test_the_caller_in_the_same_process_needs_no_internal_address(both: Both, stack: ExitStack) -> None:
    server = stack.enter_context(Upstream(lambda request, number: Answer(503)))
    sides = both([cluster("c", server.port)], {"cluster": "c"})
    asking = {"x-envoy-retry-on": "5xx", "x-forwarded-for": "203.0.113.1"}
    sides["envoy"].get(headers=asking)
    assert len(server.received) == 1
    sides["meshsdk"].get(headers=asking)
    assert len(server.received) == 3


def test_a_streamed_body_is_neither_mirrored_nor_hedged(both: Both, stack: ExitStack) -> None:
    real, shadow = stack.enter_context(Upstream()), stack.enter_context(Upstream())
    mirrors = [{"cluster": "shadow"}]
    sides = both(
        [cluster("c", real.port), cluster("shadow", shadow.port)], {"cluster": "c", "request_mirror_policies": mirrors}
    )

    def chunks() -> Iterator[bytes]:
        yield b"in"
        yield b"parts"

    side = sides["meshsdk"]
    side.client.post(f"http://{side.host}/", content=chunks())
    side.client.post(f"http://{side.host}/", content=b"whole")
    deadline = time.monotonic() + PATIENCE
    while not shadow.received and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [request.body for request in shadow.received] == [b"whole"]


def test_a_session_cookie_holds_the_address_alone(both: Both, stack: ExitStack) -> None:
    server = stack.enter_context(Upstream())
    session = {
        "name": "session",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.stateful_session.v3.StatefulSession",
            "session_state": {
                "name": "envoy.http.stateful_session.cookie",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.http.stateful_session.cookie.v3"
                    ".CookieBasedSessionState",
                    "cookie": {"name": "sticky", "path": "/", "ttl": "60s"},
                },
            },
        },
    }
    sides = both([cluster("c", server.port)], {"cluster": "c"}, filters=[session])
    held = {name: base64.b64decode(side.get().cookies["sticky"].strip('"') + "==") for name, side in sides.items()}
    assert held["meshsdk"] == f"127.0.0.1:{server.port}".encode()
    # Envoy's carries the time at which it expires, too; it is understood here all the same.
    assert held["envoy"] != held["meshsdk"]
    side = sides["meshsdk"]
    side.client.cookies.clear()
    side.client.cookies.set("sticky", base64.b64encode(held["envoy"]).decode())
    assert "set-cookie" not in side.get().headers
