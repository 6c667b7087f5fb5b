"""One ADS stream: a channel, a reader thread, an outbox. Streams to equal servers share a channel (gRFC A47)."""

from __future__ import annotations

import inspect
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from ..bootstrap import ChannelCredentials, XdsServer
from ..errors import BootstrapError
from ..regular_file import read_regular
from ..service_account_token import read_token
from .responses import reader

__all__ = ["ADS", "AdsStream", "Channels"]

# Service and what its methods, Stream… and Delta…, are of.
ADS = "envoy.service.discovery.v3.AggregatedDiscoveryService/AggregatedResources"

# Bytes of certificates or a key; the roots of the whole web are a quarter of it.
_LONGEST_PEM = 1 << 20

_CHANNEL_OPTIONS = (
    # A whole mesh in one response is larger than gRPC's default of 4 MiB, but it is not boundless.
    ("grpc.max_receive_message_length", 256 << 20),
    # gRFC A27: the xDS channel is kept alive every five minutes.
    ("grpc.keepalive_time_ms", 300_000),
    # The client decides when to connect again; a shared subchannel's own back-off would come on top of that.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
)

_SERVICE = "/envoy.service.discovery.v3.AggregatedDiscoveryService"

# Responses that may wait for the control thread. A server that sends faster is held back by HTTP/2 flow control.
_MAX_RESPONSES_WAITING = 2


class Channels:
    """Channels by server, each open as long as somebody uses it. Control thread only."""

    def __init__(self) -> None:
        self._open: dict[XdsServer, tuple[Any, int]] = {}

    def take(self, server: XdsServer) -> Any:
        """The channel to a server, until it is given back.

        Raises:
            BootstrapError: A certificate file cannot be read.
        """
        channel, users = self._open.get(server) or (open_channel(server), 0)
        self._open[server] = channel, users + 1
        return channel

    def give_back(self, server: XdsServer) -> None:
        """Close the channel where nobody else uses it: whoever comes next need not wait for its own back-off."""
        channel, users = self._open.pop(server)
        if users > 1:
            self._open[server] = channel, users - 1
        else:
            channel.close()


class AdsStream:
    """An open stream to one management server. gRPC's sync stub: two event loops that use grpc.aio do not mix.

    Args:
        server: Whom to connect to.
        channels: Where its channel is from.
        on_response: Called with this stream and each response, from the stream's reader thread.
        on_end: Called once with this stream and the reason when the stream is over, from the reader thread.
        on_sent: Called with this stream when its first request has gone out, from a thread of gRPC's.
        is_incremental: Which of the two variants is spoken.
        service: That is asked: ADS, or one of a single type.

    Attributes:
        has_sent: Whether the first request has gone out; before that the server can be blamed for nothing.
        code: The status that it ended with; None before, and where the server just closed it.
    """

    def __init__(
        self,
        server: XdsServer,
        channels: Channels,
        on_response: Callable[[AdsStream, Any], None],
        on_end: Callable[[AdsStream, str], None],
        *,
        on_sent: Callable[[AdsStream], None] = lambda stream: None,
        is_incremental: bool = False,
        service: str = ADS,
    ) -> None:
        self._outbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._room = threading.Semaphore(_MAX_RESPONSES_WAITING)
        self._on_response = on_response
        self._on_end = on_end
        self._on_sent = on_sent
        self._server, self._channels = server, channels
        speak = channels.take(server).stream_stream(
            f"/{service.replace('/', '/Delta' if is_incremental else '/Stream')}",
            request_serializer=_serialize,
            response_deserializer=reader(is_incremental=is_incremental),
        )
        self._call = speak(self._requests())
        self._closed = False
        self.has_sent = False
        self.code: grpc.StatusCode | None = None
        self._reader = threading.Thread(target=self._read, name=f"meshsdk-ads {server.uri}", daemon=True)
        self._reader.start()

    def send(self, request: Any) -> None:
        """Queue a request."""
        self._outbox.put(request)

    def processed(self) -> None:
        """One response has been dealt with; the next may be read."""
        self._room.release()

    def close(self) -> None:
        """Cancel the stream and give its channel back; `on_end` is not called for it."""
        if self._closed:
            return
        self._closed = True
        self._outbox.put(None)
        self._room.release()
        self._call.cancel()
        self._channels.give_back(self._server)
        self._reader.join(5.0)

    def _requests(self) -> Iterator[Any]:
        while (request := self._outbox.get()) is not None:
            yield request
            # The next one is asked for when this one has gone out, which takes a connection.
            if not self.has_sent:
                self.has_sent = True
                self._on_sent(self)

    def _read(self) -> None:
        reason = "the management server closed the stream"
        try:
            for response in self._call:
                self._on_response(self, response)
                self._room.acquire()
                if self._closed:
                    return
        except grpc.RpcError as error:
            reason = str(error)
            if isinstance(error, grpc.Call):
                self.code = error.code()
                reason = f"{self.code.name}: {error.details()}"
        self._outbox.put(None)
        if not self._closed:
            self._on_end(self, reason)


def _serialize(request: Any) -> bytes:
    packed: bytes = request.SerializeToString()
    return packed


def open_channel(server: XdsServer) -> Any:
    """A gRPC channel to a management server.

    Raises:
        BootstrapError: A certificate file cannot be read.
    """
    # As grpc made them, without the spans of opentelemetry-instrumentation-grpc: this stream is no part of any trace.
    insecure_channel, secure_channel = inspect.unwrap(grpc.insecure_channel), inspect.unwrap(grpc.secure_channel)
    if server.credentials.kind == "insecure":
        return insecure_channel(server.uri, options=_CHANNEL_OPTIONS)
    credentials = _tls_credentials(server.credentials)
    if server.token_files:
        tokens = (grpc.metadata_call_credentials(_TokenFile(path)) for path in server.token_files)
        credentials = grpc.composite_channel_credentials(credentials, *tokens)
    return secure_channel(server.uri, credentials, options=_CHANNEL_OPTIONS)


class _TokenFile(grpc.AuthMetadataPlugin):  # type: ignore[misc]
    """The token of a file, with each call (gRFC A97). Nothing is kept: a stream is one call, for a long time."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __call__(self, context: Any, callback: Any) -> None:
        """See grpc.AuthMetadataPlugin."""
        try:
            token = read_token(self._path)
        except (OSError, ValueError) as error:
            callback((), error)
        else:
            callback((("authorization", f"Bearer {token.text}"),), None)


def _tls_credentials(credentials: ChannelCredentials) -> Any:
    # Read at each connection, so that rotated files are picked up (gRFC A65).
    return grpc.ssl_channel_credentials(
        root_certificates=_read(credentials.ca_certificate_file),
        private_key=_read(credentials.private_key_file),
        certificate_chain=_read(credentials.certificate_file),
    )


def _read(path: str) -> bytes | None:
    if not path:
        return None
    try:
        return read_regular(path, _LONGEST_PEM)
    except (OSError, ValueError) as error:
        raise BootstrapError("xds_servers[].channel_creds", f"cannot read {path}: {error}") from error
