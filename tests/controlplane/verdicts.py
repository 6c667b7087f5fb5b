"""Who gets in by the state of a folder: decided in this process, without sockets."""

from __future__ import annotations

from collections.abc import Iterable

from meshsdk.controlplane.folder import FolderState
from meshsdk.discovery import ServerView
from meshsdk.errors import ConfigError, ResourceError
from meshsdk.inbound import Connection, InboundRequest, compile_policy
from meshsdk.resources import ResourceType, decode
from meshsdk.resources.listener.server_listener import ServerListener
from meshsdk.routing import RequestHead

__all__ = ["PORT", "Asked", "let_in"]

PORT = 8080
NAME = f"xds.istio.io/grpc/lds/inbound/127.0.0.1:{PORT}"

# Method, target, headers; over plaintext, which proves nobody.
Asked = tuple[str, str, tuple[tuple[bytes, bytes], ...]]


def let_in(state: FolderState, asked: Iterable[Asked]) -> list[bool]:
    """Which requests reach the application of a server on `PORT`. Without a listener none does."""
    requests = list(asked)
    try:
        packed = state.grpc.get((ResourceType.LISTENER, NAME)) or state.inbound(NAME)
        assert packed is not None
        listener = decode(ResourceType.LISTENER, packed)
    except (ConfigError, ResourceError):
        return [False] * len(requests)
    assert isinstance(listener, ServerListener)
    policy = compile_policy(ServerView(listener), None)
    connection = Connection(source_ip="127.0.0.1", source_port=1, destination_ip="127.0.0.1", destination_port=PORT)
    return [
        policy.begin(InboundRequest(RequestHead(method, "http", "web", target, list(headers)), connection)) is None
        for method, target, headers in requests
    ]
