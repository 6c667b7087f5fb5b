"""The API of ratings: `bookinfo.Ratings/Get`, a product's id to its stars.

Its messages are protobuf's own, so that there is nothing to generate; code that protoc generates is used the same way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf.struct_pb2 import Struct
from google.protobuf.wrappers_pb2 import StringValue

__all__ = ["add_to_server", "get_method"]

SERVICE = "bookinfo.Ratings"


def get_method(channel: Any) -> Any:
    """The method on a grpc or grpc.aio channel."""
    return channel.unary_unary(
        f"/{SERVICE}/Get",
        request_serializer=StringValue.SerializeToString,
        response_deserializer=Struct.FromString,
    )


def add_to_server(get: Callable[[StringValue, Any], Struct], server: Any) -> None:
    """Have a server offer the method."""
    handler = grpc.unary_unary_rpc_method_handler(
        get, request_deserializer=StringValue.FromString, response_serializer=Struct.SerializeToString
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Get": handler}),))
