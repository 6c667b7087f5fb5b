"""The embedded control plane for others: an ADS server over a folder.

For development, tests and small fleets: each stream has a thread. Plaintext, and on loopback unless told otherwise.
There it is a certificate authority as well, for this user's processes; on a unix socket, which they alone can connect
to, it also gives secrets (`secrets`).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import grpc

from ..errors import ConfigError
from ..identities.certificate_service import CertificateService
from ..identities.secrets import DevelopmentSecrets
from ..log_lines import logger_of
from ..xds.ads_server import AdsService
from ..xds.server_session import Served
from .folder import Folder, FolderState
from .secrets import SecretService, StateWithSecrets, make_private, nobody_else, tell_refusal

__all__ = ["ControlPlaneServer"]

logger = logger_of("meshsdk.controlplane")

_MAX_STREAMS = 256
_POLL_SECONDS = 0.25


_THIS_MACHINE = ("127.0.0.1:", "localhost:", "[::1]:", "unix:")


def _certificates(folder: Folder, address: str) -> CertificateService | None:
    """Tokens would go over the network in plaintext: only this machine is served."""
    if not address.startswith(_THIS_MACHINE):
        return None
    try:
        return CertificateService(folder.root)
    except (OSError, ValueError) as error:
        logger.warning("there is no development CA: %s", error)
        return None


def _secrets(folder: Folder, address: str) -> DevelopmentSecrets | None:
    """For whoever may connect to a socket of this user's; a name in the abstract namespace is open to all."""
    if not address.startswith("unix:"):
        return None
    try:
        return DevelopmentSecrets(folder.root)
    except (OSError, ValueError) as error:
        logger.warning("there are no secrets: %s", error)
        return None


class ControlPlaneServer:
    """Serves a folder over ADS, state-of-the-world and incremental, and follows its edits.

    Args:
        folder: What to serve.
        address: `host:port` or `unix:/path`; port 0 takes a free one.
        on_change: Called with each new state of the folder.

    Attributes:
        certificates: The certificate authority that it is; None where others than this machine may connect.
        secrets: Those that it gives; None where others than this user may connect.

    Raises:
        ConfigError: The address cannot be listened on.
    """

    def __init__(
        self,
        folder: Folder,
        address: str = "127.0.0.1:15010",
        on_change: Callable[[FolderState], None] = lambda state: None,
    ) -> None:
        self._folder = folder
        self._on_change = on_change
        self.secrets = _secrets(folder, address)
        told = tell_refusal() if self.secrets is None else lambda request: None
        self._service = AdsService(self._served(folder.state), told)
        self._stopping = threading.Event()
        self._server = grpc.server(
            ThreadPoolExecutor(_MAX_STREAMS, thread_name_prefix="meshsdk-ads-server"),
            # Without it a second server on the same port would take half of the clients.
            options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 64 << 20)],
        )
        self._service.add_to(self._server)
        SecretService(self._service, is_private=self.secrets is not None).add_to(self._server)
        self.certificates = _certificates(folder, address)
        if self.certificates is not None:
            self._server.add_generic_rpc_handlers((self.certificates,))
        try:
            with nobody_else() if self.secrets is not None else contextlib.nullcontext():
                self.port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise ConfigError(address, "cannot be listened on; is another server running there?") from error
        if self.secrets is not None:
            make_private(address)
        self._watcher = threading.Thread(target=self._watch, name="meshsdk-folder", daemon=True)

    @property
    def state(self) -> FolderState:
        """What is served."""
        return self._folder.state

    def start(self) -> None:
        """Read the folder and begin to serve it."""
        self._folder.refresh()
        self._service.publish(self._served(self._folder.state))
        self._on_change(self._folder.state)
        self._server.start()
        self._watcher.start()

    def stop(self, grace_seconds: float = 0.0) -> None:
        """Stop serving; streams are ended after `grace_seconds`."""
        self._stopping.set()
        self._service.close()
        if self.certificates is not None:
            self.certificates.close()
        if self.secrets is not None:
            self.secrets.close()
        self._server.stop(grace_seconds).wait()
        if self._watcher.is_alive():
            self._watcher.join()

    def _served(self, state: FolderState) -> Served:
        return state if self.secrets is None else StateWithSecrets(state, self.secrets)

    def _watch(self) -> None:
        while not self._stopping.wait(_POLL_SECONDS):
            before = self._folder.state
            try:
                changed = self._folder.refresh()
            except Exception:
                logger.exception("reading the folder failed; the last good state stays in use")
                continue
            if self._folder.state is not before:
                self._on_change(self._folder.state)
            if self._renewed() or changed:
                self._service.publish(self._served(self._folder.state))

    def _renewed(self) -> bool:
        """Whether some secrets are to be sent anew."""
        try:
            return self.secrets is not None and self.secrets.renew()
        except (OSError, ValueError) as error:
            logger.error("secrets cannot be renewed: %s", error)
            return False
