"""The façade: one object that is this process's place on the mesh."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import httpx

from .clients import HttpClients
from .configuration import PROFILES, Profile, check_choice, find_configuration, source_of, with_profile
from .control import Control
from .described import described
from .extras import needs_extra
from .forked import begin_anew_after_fork
from .identities.choice import choose_identity
from .readiness import wait_ready, wait_ready_async
from .security import Identity
from .security.identity import describe_identity
from .watched import Watched

if TYPE_CHECKING:
    from datetime import datetime

    import grpc

    from .access_log import AccessLog
    from .decision import Decision
    from .grpc.engine import RelayedMesh
    from .grpc.servers import LoadReports
    from .mesh_status import MeshStatus
    from .server import Inbound
    from .server.tls import ServerContexts

__all__ = ["Mesh"]


class Mesh(HttpClients):
    """This process on the mesh: clients whose requests go where the mesh's configuration says.

    Args:
        bootstrap: gRPC's xDS bootstrap: a path, or the document. Default: GRPC_XDS_BOOTSTRAP or
            GRPC_XDS_BOOTSTRAP_CONFIG.
        config: Instead of a management server, a file or folder of YAML that is read and watched. Default:
            MESHSDK_CONFIG, where neither a bootstrap is given nor in the environment. Without any of these, a pod that
            is given what Istio's agent would be given joins Istio by itself (`istio_pod`, docs/istio.md).
        unknown_hosts: What happens to requests for hosts that the mesh does not know: `allow` sends them to the real
            host, as a sidecar does under ALLOW_ANY; `deny` refuses them.
        local_replies: What the mesh itself answers (404 without a route, 503 without an endpoint, …) is a response
            with the status that Envoy would give, or, with `raise`, an exception.
        identity: Who this process is, and where its certificates come from (`meshsdk.identities`). A text is a SPIFFE
            ID that, over a folder of configuration, a certificate authority for development signs. Default: the
            bootstrap's certificate provider `default`, or over a folder the default service account.
        namespace: That short host names are completed with over a folder, as in a pod of it: `http://reviews:9080` is
            `reviews.NAMESPACE.svc.cluster.local`. Default: MESHSDK_NAMESPACE, then that of the identity, then
            POD_NAMESPACE, then `default`. A management server goes by the bootstrap's node.
        metrics_port: Count requests by Istio's standard metrics, and tell Prometheus of them at this port under
            `/stats/prometheus` (docs/metrics.md). Default: MESHSDK_METRICS_PORT; without either nothing is counted.
        admin_port: Show what goes on at this port of the loopback, in a page and as Envoy's admin interface does
            (docs/admin.md). Default: MESHSDK_ADMIN_PORT; without either there is none.
        access_log: Write a line for each request that is sent or comes in, in Istio's format: True for standard output,
            a path, or a `meshsdk.AccessLog` (docs/access-logs.md). Default: MESHSDK_ACCESS_LOG. Listeners may bring
            access logs as well, unless it is False.
        cache_dir: Keep what the management server sends in this folder, without secrets, for a process that starts
            while it is away (docs/last-known-good.md). Default: MESHSDK_CACHE_DIR; without either nothing is kept.
        cache_max_age: Seconds after which what was kept is not used any more.
        profile: What istiod sends: `grpc` is less than half of Istio, `sidecar` all (docs/istio.md). Default: as istiod
            takes the bootstrap's node, a sidecar where its metadata has no GENERATOR.

    Raises:
        BootstrapError: There is no configuration, or it is wrong.
        ResourceError: An access log has a format or a filter that is none.
        ValueError: An argument has none of the values that it may have.

    A Mesh is made at once and without I/O; it starts to work when the first request needs it. It may be shared by
    threads and event loops, and survives a fork.
    """

    def __init__(
        self,
        *,
        bootstrap: str | os.PathLike[str] | Mapping[str, Any] | None = None,
        config: str | os.PathLike[str] | None = None,
        unknown_hosts: Literal["allow", "deny"] = "allow",
        local_replies: Literal["respond", "raise"] = "respond",
        identity: Identity | str | None = None,
        namespace: str | None = None,
        metrics_port: int | None = None,
        admin_port: int | None = None,
        access_log: AccessLog | str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        cache_max_age: float = 86_400.0,
        profile: Profile | None = None,
    ) -> None:
        check_choice("unknown_hosts", unknown_hosts, ("allow", "deny"))
        check_choice("local_replies", local_replies, ("respond", "raise"))
        check_choice("profile", profile or "grpc", PROFILES)
        parsed, folder = find_configuration(bootstrap, config, identity, namespace)
        parsed = with_profile(parsed, profile) if folder is None else parsed
        self._folder = folder
        self._identity = choose_identity(identity, parsed, folder)
        self._owns_identity = self._identity is not identity
        self._runtime: Control = Control(
            parsed,
            source_of(parsed, folder, self._identity, cache_dir, cache_max_age),
            local_replies=local_replies,
            unknown_hosts=unknown_hosts,
            identity=self._identity,
        )
        self._relayed: RelayedMesh | None = None
        self._server_contexts: ServerContexts | None = None
        account = identity.rpartition("/")[2] if isinstance(identity, str) else ""
        self._watched = Watched(self._runtime, self.explain, self.status, self._identity, account)
        self._watched.begin(metrics_port, admin_port, access_log)
        begin_anew_after_fork(self._runtime)

    def channel(
        self,
        target: str,
        *,
        options: Sequence[tuple[str, Any]] | None = None,
        interceptors: Sequence[Any] = (),
        compression: grpc.Compression | None = None,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> grpc.Channel:
        """A grpc.Channel on the mesh.

        Args:
            target: `ratings:9080`, `xds:///ratings:9080`, or `xds://AUTHORITY/ratings:9080`.
            options: As grpc.insecure_channel's.
            interceptors: Client interceptors, the first one outermost; they see calls before the mesh does.
            compression: As grpc.insecure_channel's.
            credentials: For clusters that have no TLS settings in the mesh, and for hosts outside it; None is
                plaintext.

        Raises:
            ValueError: The target is of another form.
        """
        from .grpc.channels import open_channel

        return open_channel(self._grpc(), target, options, interceptors, compression, credentials)

    def aio_channel(
        self,
        target: str,
        *,
        options: Sequence[tuple[str, Any]] | None = None,
        interceptors: Sequence[Any] = (),
        compression: grpc.Compression | None = None,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> grpc.aio.Channel:
        """A grpc.aio.Channel on the mesh.

        Args:
            target: `ratings:9080`, `xds:///ratings:9080`, or `xds://AUTHORITY/ratings:9080`.
            options: As grpc.aio.insecure_channel's.
            interceptors: Client interceptors, the first one outermost; they see calls before the mesh does.
            compression: As grpc.aio.insecure_channel's.
            credentials: For clusters that have no TLS settings in the mesh, and for hosts outside it; None is
                plaintext.

        Raises:
            ValueError: The target is of another form.
        """
        from .grpc.channels import MeshAioChannel

        channel: Any = MeshAioChannel(
            self._grpc(),
            target,
            options=options,
            interceptors=interceptors,
            compression=compression,
            credentials=credentials,
        )
        return channel

    def client_interceptors(self, target: str = "") -> list[Any]:
        """Interceptors for a grpc.Channel that somebody else builds: tracing, metrics, deadlines; no balancing.

        Args:
            target: `host:port` of the channel; with it, calls also get what the target's routes do before sending:
                header changes, faults, rate limits, timeouts, direct responses.
        """
        from .grpc.channels import MeshClientInterceptor
        from .grpc.engine import parse_target

        return [MeshClientInterceptor(self._runtime, parse_target(target) if target else None)]

    def aio_client_interceptors(self, target: str = "") -> list[Any]:
        """`client_interceptors` for a grpc.aio.Channel.

        Args:
            target: `host:port` of the channel; with it, calls also get what the target's routes do before sending.
        """
        from .grpc.channels import AIO_INTERCEPTORS
        from .grpc.engine import parse_target

        return [make(self._runtime, parse_target(target) if target else None) for make in AIO_INTERCEPTORS]

    def server_interceptor(
        self, *, port: int | None = None, address: str = "0.0.0.0", load_reports: LoadReports | None = None
    ) -> grpc.ServerInterceptor:
        """The interceptor for a grpc.server: policy, tracing, metrics, and deadlines that bound what handlers send.

        Args:
            port: That the server listens on: calls must pass the mesh's inbound policy for it. None enforces none.
            address: That it listens on.
            load_reports: The server's load, to be told to clients with each call.
        """
        from .grpc.servers import MeshServerInterceptor, server_policy

        return MeshServerInterceptor(load_reports, server_policy(self._runtime, port, address), self._runtime)

    def aio_server_interceptor(
        self, *, port: int | None = None, address: str = "0.0.0.0", load_reports: LoadReports | None = None
    ) -> grpc.aio.ServerInterceptor:
        """`server_interceptor` for a grpc.aio.server.

        Args:
            port: That the server listens on: calls must pass the mesh's inbound policy for it. None enforces none.
            address: That it listens on.
            load_reports: The server's load, to be told to clients with each call.
        """
        from .grpc.servers import MeshAioServerInterceptor, server_policy

        return MeshAioServerInterceptor(load_reports, server_policy(self._runtime, port, address), self._runtime)

    def server_credentials(
        self, *, provider: str = "default", require_client_certificate: bool = True
    ) -> grpc.ServerCredentials:
        """mTLS credentials for a grpc.server or grpc.aio.server; rotated files are used from the next handshake on.

        Args:
            provider: Certificate provider instance of the bootstrap (Istio's is `default`).
            require_client_certificate: Refuse clients that show no certificate of the mesh.

        Raises:
            BootstrapError: The bootstrap has no such provider, or its files cannot be used.
        """
        from .grpc.servers import server_credentials

        return server_credentials(
            self._runtime.secrets, provider, require_client_certificate=require_client_certificate
        )

    def add_csds_servicer(self, server: grpc.Server | grpc.aio.Server) -> None:
        """Have a gRPC server tell what this process knows of the mesh (CSDS, gRFC A40), as `meshsdk status` reads it.

        Args:
            server: That is not started yet. Whoever may call it sees the configuration, without secrets.
        """
        from .admin.csds import add_csds_servicer

        add_csds_servicer(self._runtime, server)

    def inbound(self, port: int, *, address: str = "0.0.0.0") -> Inbound:
        """The policy for requests that come to a port of this process.

        Args:
            port: That a server of this process listens on, as configuration knows it.
            address: That it listens on.

        Raises:
            BootstrapError: The bootstrap does not say how listeners of servers are named.
        """
        from .server import Inbound

        return Inbound(self._runtime, port, address)

    def ssl_context(
        self,
        server_side: bool = True,
        *,
        port: int | None = None,
        require_client_certificate: bool = True,
        alpn: Sequence[str] = ("http/1.1",),
    ) -> ssl.SSLContext:
        """Mutual TLS with this process's identity, for a server of somebody else's; it rotates under a running server.

        The same context for the same arguments: servers may ask at each connection.

        Args:
            server_side: Must be true: what clients do is decided by each cluster's settings.
            port: Take the settings that the mesh has for this port, which must have come; None takes the identity's.
            require_client_certificate: Without a port: refuse clients that show no certificate of the mesh.
            alpn: Protocols that the server speaks.

        Raises:
            IdentityError: The process has no identity, or its certificates cannot be had.
        """
        from .server.tls import ServerContexts

        if not server_side:
            raise ValueError("ssl_context is for servers; clients of the mesh need none")
        if self._server_contexts is None:
            self._server_contexts = ServerContexts(self._runtime.secrets)
        inbound = self.inbound(port) if port is not None else None
        return self._server_contexts.find(inbound, require_client_certificate, tuple(alpn))

    def serve(self, app: Any, *, port: int, host: str = "0.0.0.0", health: int | None = None, **options: Any) -> None:
        """Run an ASGI or WSGI application on a port until it is told to stop, with the mesh's TLS and policy for it.

        Args:
            app: The application.
            port: To listen on; a line on standard error says when it does, and what stands in front of it.
            host: Address to listen on.
            health: A plaintext port for probes of kubelets and load balancers: `/livez` and `/readyz`.
            **options: uvicorn.Config's, but for those of several processes.

        Raises:
            UnsupportedFeatureError: An option is not carried out; it names which.
            NoRouteError: There is no policy for the port.
            ModuleNotFoundError: The extra `serve` is not installed.
            TimeoutError: None has come in time.
        """
        with needs_extra("serve", "uvicorn"):
            from .server.serve import make_server
        make_server(app, self, port, host=host, health=health, announce=True, **options).run()

    def metrics_asgi(self) -> Any:
        """The page of metrics as an ASGI application to mount; from now on requests are counted (docs/metrics.md)."""
        return self._watched.monitor().asgi

    def metrics_wsgi(self) -> Any:
        """The page of metrics as a WSGI application to mount; from now on requests are counted (docs/metrics.md)."""
        return self._watched.monitor().wsgi

    def _grpc(self) -> RelayedMesh:
        if self._relayed is None:
            from .grpc.engine import RelayedMesh

            self._relayed = RelayedMesh(self._runtime)
            self._runtime.register(self._relayed)
            if self._runtime.metrics is not None:
                self._relayed.reveal_peers()  # Before the first call, whose endpoint is counted too.
        return self._relayed

    @property
    def admin_url(self) -> str:
        """Where the admin page is; empty where there is none, or not yet."""
        return self._watched.admin_url

    def wait_ready(self, target: str, timeout: float = 5.0) -> None:
        """Wait until the mesh knows `target` and everything that its routes lead to.

        Args:
            target: A URL, `host` or `host:port`; of an authority `xds://AUTHORITY/host:port`.
            timeout: In seconds.

        Raises:
            NoRouteError: The mesh does not know it, or its configuration is broken.
            TimeoutError: No answer in time; the message says why, as far as it is known.
            ValueError: The target names no host.
        """
        wait_ready(self._runtime, target, timeout)

    async def wait_ready_async(self, target: str, timeout: float = 5.0) -> None:
        """`wait_ready` for asyncio.

        Args:
            target: A URL, `host` or `host:port`; of an authority `xds://AUTHORITY/host:port`.
            timeout: In seconds.

        Raises:
            NoRouteError: The mesh does not know it, or its configuration is broken.
            TimeoutError: No answer in time; the message says why, as far as it is known.
            ValueError: The target names no host.
        """
        await wait_ready_async(self._runtime, target, timeout)

    def explain(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        *,
        timeout: float = 5.0,
        at: datetime | None = None,
    ) -> Decision:
        """Where a request would go, and why. Nothing is sent.

        Args:
            method: HTTP method.
            url: Absolute URL.
            headers: Request headers.
            timeout: How long configuration that is not here yet may take, in seconds.
            at: By the configuration of then; the last ones are kept where there is an admin page. Health is of now.

        Raises:
            TimeoutError: It did not come in time.
            LookupError: Nothing is kept of then.
        """
        from .explaining import explain  # Nobody pays for explanations who asks for none.

        request = httpx.Request(method, url, headers=headers)
        return explain(self._runtime, request, timeout, at, self._watched.past)

    def status(self) -> MeshStatus:
        """What is known: resources with versions and errors, clusters with endpoints and their health, and so on."""
        status = self._runtime.status()
        if self._identity is not None:
            status["identity"] = describe_identity(self._identity)
        if self._relayed is not None:
            status["grpc"] = self._relayed.status()
        return status

    def __repr__(self) -> str:
        """Its configuration, who it is, and its state, as far as that is known without asking anybody."""
        return f"<meshsdk.Mesh {described(self._runtime, self._folder, self._identity)}>"

    def close(self) -> None:
        """Stop following configuration. Clients and channels keep working with what they have; close them too."""
        if self._relayed is not None:
            self._relayed.close()
        self._runtime.close()
        self._watched.close()
        if self._identity is not None and self._owns_identity:
            self._identity.close()

    def __enter__(self) -> Mesh:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Mesh:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self.close)
