"""An application as a service of a test's mesh: on a port of its own, behind the mesh's TLS and policy."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import MeshError
from ..extras import needs_extra
from .held_port import HOST, HeldPort

if TYPE_CHECKING:
    from ..mesh import Mesh
    from ..server.serve import MeshServer

__all__ = ["MeshService"]

_START_SECONDS = 30.0
_LOOK_SECONDS = 0.002


class MeshService:
    """One instance of a service, running.

    Attributes:
        name: The service's.
        namespace: The service's.
        port: The service's, by which clients of the mesh ask for it.
        own_port: That this instance listens on, on the loopback.
        mesh: This instance's own place on the mesh: what the application calls others by.
    """

    def __init__(
        self, app: Any, mesh: Mesh, held: HeldPort, name: str, namespace: str, port: int, deregister: Callable[[], None]
    ) -> None:
        self.name = name
        self.namespace = namespace
        self.port = port
        self.own_port = held.port
        self.mesh = mesh
        self._app = app
        self._held = held
        self._deregister = deregister
        self._server: MeshServer | None = None
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def url(self) -> str:
        """What clients of any namespace of the mesh ask for, without a path: `http://reviews.default:9080`."""
        return f"http://{self.name}.{self.namespace}:{self.port}"

    def start(self) -> None:
        """Serve, again after `stop`. `mesh_service` has done it.

        Raises:
            MeshError: The application does not start, or there is no policy for its port.
        """
        with needs_extra("testing", "uvicorn"):
            from ..server.serve import make_server

        if self._thread is not None:
            return
        server = self._server = make_server(self._app, self.mesh, self.own_port, host=HOST, lifespan="auto")
        listener = self._held.listen()

        def run() -> None:
            try:
                server.run(sockets=[listener])
            except BaseException as error:  # noqa: BLE001 - told by whoever waits for it; uvicorn exits by SystemExit.
                self._error = error
            finally:
                listener.close()

        self._error = None
        self._thread = threading.Thread(target=run, name=f"meshsdk-testing {self.name}", daemon=True)
        self._thread.start()
        ends = time.monotonic() + _START_SECONDS
        while not server.started and self._thread.is_alive() and time.monotonic() < ends:
            time.sleep(_LOOK_SECONDS)
        if not server.started:
            self.stop()
            why = str(self._error or "its application did not start; the log of uvicorn says why")
            raise MeshError(f"the service {self.name} does not run: {why}") from self._error

    def stop(self) -> None:
        """Listen no more, as a process that is gone; the mesh goes on to know the instance. Safe to call again."""
        self.begin_to_stop()
        thread, self._thread, self._server = self._thread, None, None
        if thread is not None:
            thread.join()

    def begin_to_stop(self) -> None:
        """Have it stop, without waiting for that."""
        if self._server is not None:
            self._server.should_exit = True

    def remove(self) -> None:
        """Take the instance out of the mesh, then stop it: as a pod that is deleted."""
        self._deregister()
        self.close()

    def close(self) -> None:
        """Stop, and let go of the port."""
        self.stop()
        self.mesh.close()
        self._held.close()
