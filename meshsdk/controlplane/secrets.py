"""Secrets of the embedded control plane (SDS): over ADS, and as a service of their own, on a private unix socket.

A private key goes to processes of the same user alone. The file system proves them: the socket can be connected to by
its owner. What comes over TCP proves nobody, and plaintext would show the key to whoever listens, so there secrets are
refused. Istio's agent gives them over a unix socket, too, and istiod gives none.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import grpc
from envoy.config.core.v3 import base_pb2
from envoy.service.secret.v3 import sds_pb2_grpc
from google.protobuf import json_format

from ..errors import ConfigError
from ..identities.secrets import DevelopmentSecrets
from ..log_lines import logger_of
from ..resources import ResourceType
from ..xds.ads_server import AdsService
from ..xds.server_session import SECRET
from .folder import FolderState

__all__ = ["REFUSAL", "SecretService", "StateWithSecrets", "make_private", "nobody_else", "tell_refusal"]

logger = logger_of("meshsdk.controlplane")

REFUSAL = (
    "secrets are given over a unix socket only: start the control plane with --socket PATH and connect to unix:PATH, or"
    " give the process its certificate in files"
)

Key = tuple[Any, str]


@contextlib.contextmanager
def nobody_else() -> Iterator[None]:
    """What is made meanwhile is this user's alone from its first moment on: a socket is bound before it can be changed.

    The mask is the process's; another thread's new file is that private, too.
    """
    before = os.umask(stat.S_IRWXG | stat.S_IRWXO)
    try:
        yield
    finally:
        os.umask(before)


def make_private(address: str) -> None:
    """Have only this user connect to a unix socket.

    Raises:
        ConfigError: It is no socket of this user's.
    """
    path = address.removeprefix("unix:").removeprefix("//")
    try:
        os.chmod(path, stat.S_IRUSR | stat.S_IWUSR)
        found = os.stat(path)
    except OSError as error:
        raise ConfigError(address, f"cannot be made private: {error}") from error
    if found.st_uid != os.geteuid() or not stat.S_ISSOCK(found.st_mode):
        raise ConfigError(address, "is no socket of this user's")


class StateWithSecrets:
    """What a folder says, and secrets.

    Args:
        state: The folder's.
        secrets: Where they come from.
    """

    def __init__(self, state: FolderState, secrets: DevelopmentSecrets) -> None:
        self._state = state
        self._secrets = secrets

    def for_client(self, node: base_pb2.Node) -> Mapping[tuple[ResourceType, str], bytes]:
        """See `Served`."""
        return _WithSecrets(self._state.for_client(node), self._secrets, _own_id(self._state, node))


def _own_id(state: FolderState, node: base_pb2.Node) -> str:
    """The SPIFFE ID of a workload, by its node's metadata as Istio has it."""
    metadata = json_format.MessageToDict(node.metadata)
    namespace, account = (metadata.get(name) for name in ("NAMESPACE", "SERVICE_ACCOUNT"))
    domain = state.world.security.mesh.trust_domain
    return f"spiffe://{domain}/ns/{namespace or 'default'}/sa/{account or 'default'}"


class _WithSecrets(Mapping[Key, bytes]):
    """Resources, and secrets by whatever name they are asked for."""

    def __init__(self, resources: Mapping[Key, bytes], secrets: DevelopmentSecrets, own_id: str) -> None:
        self._resources = resources
        self._secrets = secrets
        self._own_id = own_id

    def __getitem__(self, key: Key) -> bytes:
        if key[0] is not SECRET:
            return self._resources[key]
        found = self._secrets.find(key[1], self._own_id)
        if found is None:
            raise KeyError(key)
        return found

    def __iter__(self) -> Iterator[Key]:
        return iter(self._resources)

    def __len__(self) -> int:
        return len(self._resources)


class SecretService(sds_pb2_grpc.SecretDiscoveryServiceServicer):  # type: ignore[misc]
    """The service that Envoys and `SdsIdentity` ask on a stream of their own.

    Args:
        ads: Which has the secrets.
        is_private: Whether nobody else can ask; to others it says why they get none.
    """

    def __init__(self, ads: AdsService, *, is_private: bool) -> None:
        self._ads = ads
        self._is_private = is_private

    def add_to(self, server: Any) -> None:
        """Have a grpc.Server offer this service."""
        sds_pb2_grpc.add_SecretDiscoveryServiceServicer_to_server(self, server)

    def StreamSecrets(self, request_iterator: Iterator[Any], context: Any) -> Iterator[Any]:
        """State of the world."""
        self._check(context)
        return self._ads.StreamAggregatedResources(request_iterator, context)

    def DeltaSecrets(self, request_iterator: Iterator[Any], context: Any) -> Iterator[Any]:
        """Incremental."""
        self._check(context)
        return self._ads.DeltaAggregatedResources(request_iterator, context)

    def _check(self, context: Any) -> None:
        if not self._is_private:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, REFUSAL)


def tell_refusal() -> Callable[[Any], None]:
    """Tells of requests for secrets among others, which an Envoy would wait for without a word. Once for each node."""
    told: set[str] = set()

    def tell(request: Any) -> None:
        if request.type_url == SECRET.type_url and len(told) < 1000 and request.node.id[:100] not in told:
            told.add(request.node.id[:100])
            logger.error("%s asks for secrets: %s", request.node.id[:100] or "a client", REFUSAL)

    return tell
