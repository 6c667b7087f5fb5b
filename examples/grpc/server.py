"""The greeter: `python -m examples.grpc.server v1 50061`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.protobuf.wrappers_pb2 import StringValue

import meshsdk
from examples.grpc.greeter_api import add_greeter


class Greeter:
    """Says who greets, and why this one."""

    def __init__(self, version: str) -> None:
        self.version = version

    def hello(self, request: StringValue, context: Any) -> StringValue:
        reason = dict(context.invocation_metadata()).get("x-reason", "")
        return StringValue(value=f"{self.version}: hello {request.value}{' the ' + reason if reason else ''}")

    def talk(self, requests: Iterator[StringValue], context: Any) -> Iterator[StringValue]:
        for request in requests:
            yield StringValue(value=f"{self.version}: you said {request.value}")


def main() -> None:
    """Serve until killed."""
    version, port = sys.argv[1:3]
    # The interceptor traces, counts, and lets the callers' deadlines bound what handlers send.
    server = grpc.server(ThreadPoolExecutor(8), interceptors=[meshsdk.Mesh().server_interceptor()])
    add_greeter(Greeter(version), server)
    print(server.add_insecure_port(f"127.0.0.1:{port}"), flush=True)
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main()
