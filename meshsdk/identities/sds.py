"""An identity from an agent's SDS on a unix socket, as Istio's agent serves it (names `default` and `ROOTCA`).

Sources: Envoy docs, configuration/security/secret; istio/istio security/pkg/nodeagent/sds.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator

import grpc
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf.message import DecodeError

from ..errors import IdentityError
from ..security import Credentials
from ..security.identity import check_credentials
from .forks import reset_after_fork

__all__ = ["SdsIdentity"]

logger = logging.getLogger("meshsdk.identity")

_METHOD = "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets"
_TYPE = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
_FIRST_WAIT_SECONDS = 15.0
_LONGEST_PAUSE_SECONDS = 30.0
# Where Istio's agent listens.
_SOCKET = "/var/run/secrets/workload-spiffe-uds/socket"


class SdsIdentity:
    """Follows an agent: what it pushes is in use from the next handshake on.

    Args:
        socket: Path of the agent's unix socket.
        certificate_name, roots_name: Names of the two secrets.
    """

    def __init__(
        self,
        socket: str | os.PathLike[str] = _SOCKET,
        *,
        certificate_name: str = "default",
        roots_name: str = "ROOTCA",
    ) -> None:
        self._target = f"unix:{os.fspath(socket)}"
        self._names = (certificate_name, roots_name)
        self.reset()
        reset_after_fork(self)

    def reset(self) -> None:
        """In a forked child: start afresh at the next use."""
        self._lock = threading.Lock()
        self._ready = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._call: grpc.Call | None = None
        self._secrets: dict[str, secret_pb2.Secret] = {}
        self._current: Credentials | None = None
        self._problem = ""

    @property
    def problem(self) -> str:
        """See `security.Identity`."""
        return self._problem

    def credentials(self) -> Credentials:
        """See `security.Identity`."""
        current = self._current
        if current is not None:
            return current
        with self._lock:
            if self._thread is None and not self._stopping.is_set():
                self._thread = threading.Thread(target=self._run, name="meshsdk-sds", daemon=True)
                self._thread.start()
        self._ready.wait(_FIRST_WAIT_SECONDS)
        if self._current is None:
            raise IdentityError(f"no certificate from the agent at {self._target}: {self._problem or 'no answer yet'}")
        return self._current

    def _run(self) -> None:
        pause = 0.25
        while not self._stopping.is_set():
            try:
                self._follow()
                pause = 0.25
            except grpc.RpcError as error:
                self._fail(f"{error.code().name}: {error.details()}")
                self._ready.set()
            self._stopping.wait(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    def _follow(self) -> None:
        """One stream, until it ends."""
        answers: list[discovery_pb2.DiscoveryRequest] = [
            discovery_pb2.DiscoveryRequest(type_url=_TYPE, resource_names=list(self._names))
        ]
        wake = threading.Semaphore(1)

        def requests() -> Iterator[discovery_pb2.DiscoveryRequest]:
            while not self._stopping.is_set():
                wake.acquire()
                if answers:
                    yield answers.pop(0)

        with grpc.insecure_channel(self._target) as channel:
            stream = channel.stream_stream(
                _METHOD,
                request_serializer=discovery_pb2.DiscoveryRequest.SerializeToString,
                response_deserializer=discovery_pb2.DiscoveryResponse.FromString,
            )
            call = self._call = stream(requests())
            try:
                for response in call:
                    answer = discovery_pb2.DiscoveryRequest(
                        type_url=_TYPE,
                        resource_names=list(self._names),
                        response_nonce=response.nonce,
                        version_info=response.version_info,
                    )
                    problem = self._take(response)
                    if problem:
                        answer.error_detail.code, answer.error_detail.message = 3, problem
                        answer.version_info = ""
                    answers.append(answer)
                    wake.release()
            finally:
                wake.release()
                with contextlib.suppress(Exception):
                    call.cancel()

    def _take(self, response: discovery_pb2.DiscoveryResponse) -> str:
        """Use what came; what is wrong with it is said to the agent."""
        try:
            for resource in response.resources:
                secret = secret_pb2.Secret.FromString(resource.value)
                self._secrets[secret.name] = secret
            certificate, roots = (self._secrets.get(name) for name in self._names)
            if certificate is None or roots is None:
                return ""
            tls = certificate.tls_certificate
            self._current = check_credentials(
                _text(tls.certificate_chain), _text(tls.private_key), _text(roots.validation_context.trusted_ca)
            )
        except (DecodeError, IdentityError) as error:
            self._fail(str(error))
            return str(error)
        self._problem = ""
        self._ready.set()
        return ""

    def _fail(self, problem: str) -> None:
        if problem != self._problem:
            logger.error("the agent's secrets cannot be had, the last ones stay in use: %s", problem)
        self._problem = problem

    def close(self) -> None:
        """See `security.Identity`."""
        self._stopping.set()
        call, thread = self._call, self._thread
        if call is not None:
            call.cancel()
        if thread is not None:
            thread.join(5)


def _text(source: object) -> bytes:
    return bytes(source.inline_bytes or source.inline_string.encode())  # type: ignore[attr-defined]
