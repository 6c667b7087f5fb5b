"""An identity from an agent's SDS on a unix socket, as Istio's agent serves it (names `default` and `ROOTCA`).

Sources: Envoy docs, configuration/security/secret; istio/istio security/pkg/nodeagent/sds.
"""

from __future__ import annotations

import os
import queue
from collections.abc import Iterator
from typing import Any

import grpc
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf.message import DecodeError

from ..errors import IdentityError
from ..security.identity import check_credentials
from .streaming import StreamedIdentity, unix_target

__all__ = ["SdsIdentity"]

_METHOD = "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets"
_TYPE = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
# Where Istio's agent listens.
_SOCKET = "/var/run/secrets/workload-spiffe-uds/socket"

_Requests = queue.SimpleQueue["discovery_pb2.DiscoveryRequest | None"]


class SdsIdentity(StreamedIdentity):
    """Follows an agent: what it pushes is in use from the next handshake on.

    Args:
        socket: Path of the agent's unix socket.
        certificate_name: Name of the secret with certificate and key.
        roots_name: Name of the secret with the roots.
    """

    def __init__(
        self,
        socket: str | os.PathLike[str] = _SOCKET,
        *,
        certificate_name: str = "default",
        roots_name: str = "ROOTCA",
    ) -> None:
        self._names = (certificate_name, roots_name)
        target = unix_target(socket)
        super().__init__(target, f"the agent at {target}")

    def reset(self) -> None:
        """See `BackgroundIdentity`."""
        self._requests: _Requests = queue.SimpleQueue()
        self._secrets: dict[str, secret_pb2.Secret] = {}
        super().reset()

    def open(self, channel: grpc.Channel) -> Any:
        """See `StreamedIdentity`."""
        requests: _Requests = queue.SimpleQueue()
        self._requests.put(None)  # Ends the requests of the stream before.
        self._requests = requests
        requests.put(discovery_pb2.DiscoveryRequest(type_url=_TYPE, resource_names=list(self._names)))
        stream = channel.stream_stream(
            _METHOD,
            request_serializer=discovery_pb2.DiscoveryRequest.SerializeToString,
            response_deserializer=discovery_pb2.DiscoveryResponse.FromString,
        )
        return stream(_until_none(requests))

    def take(self, message: object) -> None:
        """See `StreamedIdentity`; what is wrong with what came is said to the agent."""
        assert isinstance(message, discovery_pb2.DiscoveryResponse)
        answer = discovery_pb2.DiscoveryRequest(
            type_url=_TYPE, resource_names=list(self._names), response_nonce=message.nonce
        )
        try:
            self._use(message)
            answer.version_info = message.version_info
        except (DecodeError, IdentityError) as error:
            answer.error_detail.code, answer.error_detail.message = 3, str(error)
            raise
        finally:
            self._requests.put(answer)

    def _use(self, response: discovery_pb2.DiscoveryResponse) -> None:
        for resource in response.resources:
            secret = secret_pb2.Secret.FromString(resource.value)
            self._secrets[secret.name] = secret
        certificate, roots = (self._secrets.get(name) for name in self._names)
        if certificate is not None and roots is not None:
            tls, trusted = certificate.tls_certificate, roots.validation_context.trusted_ca
            self._succeed(check_credentials(_text(tls.certificate_chain), _text(tls.private_key), _text(trusted)))

    def interrupt(self) -> None:
        """See `BackgroundIdentity`."""
        super().interrupt()
        self._requests.put(None)


def _until_none(requests: _Requests) -> Iterator[discovery_pb2.DiscoveryRequest]:
    while (request := requests.get()) is not None:
        yield request


def _text(source: object) -> bytes:
    return bytes(source.inline_bytes or source.inline_string.encode())  # type: ignore[attr-defined]
