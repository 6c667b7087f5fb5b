"""grpc-core's management server: an ADS server in this process, on a unix socket in a private folder.

One for the process, whatever the number of Meshes, since grpc-core reads one bootstrap. It starts with the first call
on a channel of a Mesh and runs as long as the process does: grpc-core remembers its socket, and would come back to
one that was closed and opened again only after its own back-off.

What grpc-core refuses (NACK) is remembered for the Mesh's status, and logged with the resource's name; grpc-core itself
goes on with the last good one.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future
from typing import Any, Protocol, TypeVar

import re2
from envoy.config.core.v3 import base_pb2
from envoy.config.route.v3 import route_components_pb2
from grpc import _server

from ...errors import UnsupportedFeatureError
from ...forked import keep
from ...log_lines import logger_of
from ...resources import RESOURCE_TYPES, ResourceType
from ...xds.ads_server import AdsService
from .bootstrap import merged_bootstrap, open_keeper
from .listener import write_listener
from .loads import LoadService
from .names import KEEPER, parts_of, resource_name, shown
from .private_folder import PrivateFolder
from .tls_slots import TlsSlots

__all__ = ["Relay", "RelayClient", "join", "leave", "refuse_after_fork"]

logger = logger_of("meshsdk.grpc")

T = TypeVar("T")
Packed = Mapping[tuple[ResourceType, str], bytes]

_NAME = re2.compile(r"xdstp://[^\s\"'\]]*[^\s\"'\]:,;.]")
_MAX_REFUSED = 1000


def _keepers_listener() -> bytes:
    """Routes that lead nowhere: grpc-core logs as an error, 15 seconds later, that a listener does not exist."""
    virtual_host = route_components_pb2.VirtualHost(name=KEEPER, domains=["*"])
    route = virtual_host.routes.add()
    route.match.prefix = "/"
    route.non_forwarding_action.SetInParent()
    packed: bytes = write_listener(resource_name(ResourceType.LISTENER, KEEPER), virtual_host, None).SerializeToString()
    return packed


_KEEPERS: Packed = {(ResourceType.LISTENER, resource_name(ResourceType.LISTENER, KEEPER)): _keepers_listener()}


class RelayClient(Protocol):
    """A Mesh as the relay sees it."""

    def want(self, listener: tuple[str, ...]) -> None:
        """grpc-core asks for a listener, by the parts of its name after the Mesh's id. From any thread."""

    def take_load(self, cluster: str, stats: Any) -> None:
        """grpc-core tells of a cluster's load (ClusterStats). From any thread."""


class Relay:
    """The server, and what it serves for each Mesh.

    Attributes:
        slots: Where certificates are put for grpc-core.
    """

    def __init__(self) -> None:
        self._folder = PrivateFolder()
        self._socket = self._folder.path / "relay.sock"
        self.slots = TlsSlots(self._folder.path)
        self._clients: dict[str, RelayClient] = {}
        self._resources: dict[str, Packed] = {}
        self._refused: dict[tuple[ResourceType, str], str] = {}
        self._ids = itertools.count(1)
        self._lock = threading.Lock()
        self._asked = threading.Event()
        self._service = AdsService(_State(_KEEPERS), self._on_request)
        self._loads = LoadService(self._on_load)
        # All that were ever started: one that is let go takes the socket's name with it.
        self._servers: list[Any] = []
        self._keeper: Any = None
        self._process = os.getpid()

    def add(self, client: RelayClient) -> str:
        """Serve for one more Mesh; returns its id."""
        with self._lock:
            self._start()
            name = str(next(self._ids))
            self._clients[name] = client
            return name

    def remove(self, name: str) -> None:
        """Serve for a Mesh no more. Its channels keep what they have."""
        with self._lock:
            del self._clients[name]
            self._resources.pop(name, None)
            for key in [key for key in self._refused if parts_of(*key)[:1] == (name,)]:
                del self._refused[key]
            if not self._clients:
                self.slots.clear()

    def publish(self, name: str, resources: Packed) -> None:
        """From now on serve these resources for a Mesh."""
        with self._lock:
            if name not in self._clients:
                return
            self._resources[name] = resources
            merged = {key: packed for each in (_KEEPERS, *self._resources.values()) for key, packed in each.items()}
            self._service.publish(_State(merged))

    def refused(self, name: str) -> list[dict[str, str]]:
        """What grpc-core has refused of a Mesh's resources, and why."""
        with self._lock:
            return [
                {"type": kind.type_url, "name": shown(kind, resource), "error": error}
                for (kind, resource), error in self._refused.items()
                if parts_of(kind, resource)[:1] == (name,)
            ]

    def check_socket(self) -> None:
        """Open the socket again where somebody has removed it, such as a cleaner of temporary files."""
        with self._lock:
            if self._servers and not self._socket.exists():
                logger.warning("the relay's socket %s is gone, it is opened again", self._socket)
                self._folder.path.mkdir(mode=0o700, exist_ok=True)
                # The old server goes on with the streams that it has.
                self._listen()

    def _start(self) -> None:
        if self._servers:
            return
        document = merged_bootstrap(self._socket, self.slots.bootstrap_entries())
        self._asked.clear()
        self._listen()
        try:
            self._keeper = open_keeper(document, self._asked)
        except UnsupportedFeatureError:
            self._stop()
            raise

    def _listen(self) -> None:
        self._socket.unlink(missing_ok=True)
        # Not grpc.server, which opentelemetry-instrumentation-grpc replaces: nobody wants spans of this server.
        server = _server.create_server(
            thread_pool=_DaemonThreads(),
            generic_rpc_handlers=(),
            interceptors=(),
            options=(("grpc.so_reuseport", 0),),
            maximum_concurrent_rpcs=None,
            compression=None,
            xds=False,
        )
        self._service.add_to(server)
        self._loads.add_to(server)
        server.add_insecure_port(f"unix:{self._socket}")
        server.start()
        self._servers.append(server)

    def _stop(self) -> None:
        self._service.close()
        while self._servers:
            self._servers.pop().stop(0)

    def _on_request(self, request: Any) -> None:
        self._asked.set()
        kind = RESOURCE_TYPES.get(request.type_url)
        if kind is None:
            return
        if request.HasField("error_detail"):
            self._on_refusal(kind, request)
        elif request.response_nonce:
            with self._lock:
                for name in request.resource_names:
                    self._refused.pop((kind, name), None)
        if kind is ResourceType.LISTENER:
            for name in request.resource_names:
                parts = parts_of(kind, name)
                client = self._clients.get(parts[0]) if parts else None
                if client is not None:
                    client.want(parts[1:])
                elif parts != (KEEPER,):
                    self._on_stranger(name)

    def _on_load(self, stats: Any) -> None:
        mesh, *cluster = parts_of(ResourceType.CLUSTER, stats.cluster_name) or ("",)
        client = self._clients.get(mesh)
        if client is not None and cluster:
            client.take_load(cluster[0], stats)

    def _on_refusal(self, kind: ResourceType, request: Any) -> None:
        message = request.error_detail.message
        named = set(_NAME.findall(message)) & set(request.resource_names)
        for name in named or request.resource_names:
            with self._lock:
                if len(self._refused) < _MAX_REFUSED:
                    self._refused[(kind, name)] = message[:4096]
            logger.error("grpc-core refuses %s %s: %s", kind.name.lower(), shown(kind, name), message[:4096])

    def _on_stranger(self, name: str) -> None:
        if name.startswith("xdstp:"):
            return  # Of a Mesh that is closed.
        logger.error(
            "grpc-core asks meshsdk for %r, which is no resource of a Mesh: an xds:/// channel was opened while"
            " GRPC_XDS_BOOTSTRAP was not set, or was set after the first call on a channel of a Mesh",
            name,
        )


class _State:
    """What is served at one moment."""

    __slots__ = ("_resources",)

    def __init__(self, resources: Packed) -> None:
        self._resources = resources

    def for_client(self, node: base_pb2.Node) -> Packed:
        """See `xds.server_session.Served`."""
        return self._resources


class _DaemonThreads(Executor):
    """A thread for each stream; unlike a ThreadPoolExecutor's, they do not keep the process from ending."""

    def submit(self, function: Callable[..., T], /, *arguments: Any, **options: Any) -> Future[T]:
        """See Executor."""
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(function(*arguments, **options))
            except BaseException as error:  # noqa: BLE001 - it is the future's.
                future.set_exception(error)

        threading.Thread(target=run, name="meshsdk-relay", daemon=True).start()
        return future


class _Process:
    """The relay of this process, which lives as long as the process does: grpc-core remembers its socket."""

    relay: Relay | None = None
    lock = threading.Lock()
    is_inherited = False


def join(client: RelayClient) -> tuple[Relay, str]:
    """The process's relay, and the id under which it serves for a Mesh.

    Raises:
        UnsupportedFeatureError: gRPC was used in the parent before this process was forked, or grpc-core works with
            another bootstrap.
        BootstrapError: The application's own bootstrap cannot be read.
    """
    refuse_after_fork()
    with _Process.lock:
        if _Process.relay is None:
            _Process.relay = Relay()
        return _Process.relay, _Process.relay.add(client)


def refuse_after_fork() -> None:
    """Refuse gRPC where it was used in the parent; to be asked before anything of gRPC's is touched.

    Raises:
        UnsupportedFeatureError: It was.
    """
    if _Process.is_inherited:
        raise UnsupportedFeatureError(
            "a channel of a Mesh was used before this process was forked, and grpc-core does not survive a fork;"
            " make the first call after forking (gunicorn: in the worker, not at import), or use spawn"
        )


def leave(relay: Relay, name: str) -> None:
    """A Mesh is closed."""
    with _Process.lock:
        relay.remove(name)


def _after_fork() -> None:
    _Process.lock = threading.Lock()
    _Process.is_inherited = _Process.is_inherited or _Process.relay is not None
    keep(_Process.relay)
    _Process.relay = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
