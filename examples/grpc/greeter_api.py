"""The API: `example.Greeter`, with Hello (one, one) and Talk (many, many); messages are protobuf's StringValue."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf.wrappers_pb2 import StringValue

__all__ = ["GreeterStub", "add_greeter"]

SERVICE = "example.Greeter"
_CODEC = {"request_serializer": StringValue.SerializeToString, "response_deserializer": StringValue.FromString}
_SERVER_CODEC = {"request_deserializer": StringValue.FromString, "response_serializer": StringValue.SerializeToString}


class GreeterStub:
    """What protoc would generate for clients; works on grpc and on grpc.aio channels."""

    def __init__(self, channel: Any) -> None:
        self.hello = channel.unary_unary(f"/{SERVICE}/Hello", **_CODEC)
        self.talk = channel.stream_stream(f"/{SERVICE}/Talk", **_CODEC)


def add_greeter(servicer: Any, server: Any) -> None:
    """What protoc would generate for servers: `servicer` has the methods hello and talk."""
    handlers = {
        "Hello": grpc.unary_unary_rpc_method_handler(servicer.hello, **_SERVER_CODEC),
        "Talk": grpc.stream_stream_rpc_method_handler(servicer.talk, **_SERVER_CODEC),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
