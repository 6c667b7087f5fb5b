"""Ratings (gRPC), in several replicas; each says who it is."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.protobuf.struct_pb2 import Struct
from google.protobuf.wrappers_pb2 import StringValue
from grpc_health.v1 import health, health_pb2_grpc

import meshsdk
from examples.bookinfo import ratings_api

replica = sys.argv[2] if len(sys.argv) > 2 else "a"
mesh = meshsdk.Mesh()


def get(product: StringValue, context: Any) -> Struct:
    """Stars by reviewer, and how often the client had to try."""
    tries = dict(context.invocation_metadata()).get("grpc-previous-rpc-attempts", 0)
    answer = Struct()
    answer.update({"replica": replica, "stars": {"Reviewer1": 5, "Reviewer2": 4}, "attempts": int(tries) + 1})
    return answer


if __name__ == "__main__":
    server = grpc.server(ThreadPoolExecutor(8), interceptors=[mesh.server_interceptor()])
    ratings_api.add_to_server(get, server)
    health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)
    server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
    server.start()
    server.wait_for_termination()
