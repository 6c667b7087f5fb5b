"""Services as grpcio-tools generate them today: the server knows their methods, and tells no host then."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

import meshsdk

from ..conftest import service
from ..patience import PATIENCE
from .running import mesh_of, one_port, policy


@contextmanager
def serving(mesh: meshsdk.Mesh, port: int) -> Iterator[None]:
    server = grpc.server(futures.ThreadPoolExecutor(4), interceptors=[mesh.server_interceptor(port=port)])
    health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    try:
        yield
    finally:
        server.stop(None).wait()


def check(port: int) -> grpc.StatusCode:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            stub.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE, wait_for_ready=True)
            next(iter(stub.Watch(health_pb2.HealthCheckRequest(), timeout=PATIENCE)))
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            return code
    return grpc.StatusCode.OK


@pytest.mark.parametrize(
    ("rules", "code"),
    [
        ("", "OK"),
        ("{rules: [{to: [{operation: {paths: ['/grpc.health.v1.Health/*']}}]}]}", "OK"),
        ("{rules: [{to: [{operation: {paths: ['/shop.Orders/*']}}]}]}", "PERMISSION_DENIED"),
        # A rule about what the server does not tell: nobody gets in, and the audit event says why.
        ("{rules: [{to: [{operation: {hosts: ['*']}}]}]}", "UNAVAILABLE"),
        ("{action: DENY, rules: [{to: [{operation: {hosts: [admin]}}]}]}", "UNAVAILABLE"),
    ],
)
def test_registered_methods_are_let_in_and_refused_as_others(tmp_path: Path, rules: str, code: str) -> None:
    port = one_port()
    with mesh_of(tmp_path, service("web", port) + (policy(rules) if rules else "")) as mesh, serving(mesh, port):
        assert check(port).name == code
