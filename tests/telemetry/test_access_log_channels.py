"""Access logs of gRPC channels: all kinds of calls, once each, whoever reads or leaves their responses."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

import meshsdk

from ..conftest import service
from ..grpc.conftest import MakeClient, serve  # noqa: F401 - a fixture.
from ..grpc_server import GrpcServer
from ..patience import PATIENCE

FORMAT = {
    "path": "%REQ(:PATH)%",
    "code": "%RESPONSE_CODE%",
    "grpc": "%GRPC_STATUS%",
    "in": "%BYTES_RECEIVED%",
    "out": "%BYTES_SENT%",
    "flags": "%RESPONSE_FLAGS%",
    "host": "%UPSTREAM_HOST%",
    "tenant": "%REQ(X-TENANT)%",
    "details": "%RESPONSE_CODE_DETAILS%",
}


def ratings(*ports: int) -> str:
    return service("ratings", *ports, port=9080).replace("name: http", "name: grpc").replace("{http:", "{grpc:")


def mesh_with_log(tmp_path: Path, stack: ExitStack, *ports: int) -> meshsdk.Mesh:
    config = tmp_path / "mesh"
    config.mkdir()
    (config / "mesh.yaml").write_text(ratings(*ports))
    log = meshsdk.AccessLog(str(tmp_path / "log"), json_format=FORMAT)
    return stack.enter_context(meshsdk.Mesh(config=config, access_log=log))


def lines(tmp_path: Path, count: int) -> list[dict[str, Any]]:
    path, deadline = tmp_path / "log", time.monotonic() + PATIENCE
    while time.monotonic() < deadline and (not path.exists() or path.read_bytes().count(b"\n") < count):
        time.sleep(0.02)
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(found) == count, found
    return found


def test_every_kind_of_call_has_one_line(
    tmp_path: Path,
    stack: ExitStack,
    connect: MakeClient,
    serve: Callable[..., GrpcServer],  # noqa: F811
    clients: ExitStack,
) -> None:
    server = serve("ratings")
    mesh = mesh_with_log(tmp_path, stack, server.port)
    with clients:
        client = connect(mesh)
        client.call(request=b"four", metadata=(("x-tenant", "blue"),))
        down = client.down(3)
        up = client.up([b"a", b"bc"])
        both = client.both([b"a", b"bc"])
        found = {one["path"]: one for one in lines(tmp_path, 4)}
    ends = {(one["code"], one["grpc"], one["flags"], one["host"]) for one in found.values()}
    assert ends == {(200, "OK", "-", f"127.0.0.1:{server.port}")}
    say = found["/test.Echo/Say"]
    assert (say["in"], say["tenant"], say["details"]) == (9, "blue", "via_upstream")
    assert say["out"] > 5
    assert found["/test.Echo/Down"]["out"] == sum(map(len, down)) + 3 * 5
    assert (found["/test.Echo/Up"]["in"], found["/test.Echo/Up"]["out"]) == (3 + 2 * 5, len(up) + 5)
    assert found["/test.Echo/Both"]["out"] == sum(map(len, both)) + 5 * len(both)


def test_calls_that_fail_have_a_line_that_says_whom_they_could_not_reach(
    tmp_path: Path, stack: ExitStack, connect: MakeClient, clients: ExitStack
) -> None:
    mesh = mesh_with_log(tmp_path, stack, 1)
    with clients:
        with pytest.raises(Exception, match="UNAVAILABLE"):
            connect(mesh).call(request=b"four")
        [line] = lines(tmp_path, 1)
    assert (line["code"], line["grpc"], line["flags"], line["host"]) == (200, "Unavailable", "UF", "127.0.0.1:1")
    assert line["details"].startswith("upstream_reset_before_response_started{remote_connection_failure|")


def test_futures_and_streams_that_are_left_have_theirs_too(
    tmp_path: Path,
    stack: ExitStack,
    serve: Callable[..., GrpcServer],  # noqa: F811
) -> None:
    server = serve("ratings")
    mesh = mesh_with_log(tmp_path, stack, server.port)
    with mesh.channel("ratings:9080") as channel:
        future = channel.unary_unary("/test.Echo/Say").future(b"four", timeout=PATIENCE)
        size = len(future.result()) + 5
        assert future.code() is grpc.StatusCode.OK
        responses = channel.unary_stream("/test.Echo/Down")(b"3", timeout=PATIENCE)
        next(responses)
        first = lines(tmp_path, 1)
        responses.cancel()
        del responses
        second = lines(tmp_path, 2)[1]
    assert (first[0]["path"], first[0]["out"]) == ("/test.Echo/Say", size)
    assert second["path"] == "/test.Echo/Down"
