"""The management server of a test, and the meshes and services on it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Literal

import grpc

from ..controlplane import Folder
from ..errors import ConfigError
from ..identities.certificate_authority import CertificateAuthority
from ..istio_pod import SERVER_LISTENER_TEMPLATE
from ..log_lines import logger_of
from ..mesh import Mesh
from .generation import Generation, Key
from .held_port import HOST, HeldPort
from .objects import Given, ObjectKey, Objects, find_objects
from .raw import Raw, key_of
from .recorded import Ack, Nack, RecordedAds
from .services import MeshService
from .signed import SignedIdentity
from .waiting import owed_by
from .workloads import Workload, make_objects

__all__ = ["ControlPlane"]

logger = logger_of("meshsdk.testing")

Names = AbstractSet[str]

_MAX_STREAMS = 256


class ControlPlane:
    """Serves what it is given over xDS, on a port of the loopback; nothing is mocked.

    Args:
        incremental: Its meshes ask in the incremental variant; else for the state of the world. Both are served.
        wait_seconds: How long clients may take to have what is new.

    It is running once it is made; use it as a context, or `close` it.
    """

    def __init__(self, *, incremental: bool = False, wait_seconds: float = 30.0) -> None:
        self.incremental = incremental
        self.wait_seconds = wait_seconds
        self._place = TemporaryDirectory(prefix="meshsdk-testing-")
        self._objects = Objects(Path(self._place.name))
        self._folder = Folder(self._place.name, settle_seconds=0.0)
        self._folder.read()
        self._raw: dict[Key, bytes] = {}
        self._number = 0
        self._lock = threading.RLock()
        self._authority: CertificateAuthority | None = None
        self._identities: dict[str, SignedIdentity] = {}
        self._meshes: list[Mesh] = []
        self._counts: dict[tuple[str, str], int] = {}
        self._services: list[MeshService] = []
        self._held = HeldPort()
        self._ads = RecordedAds(self._generation())
        self._server: Any = None
        self.start()

    # What is served.

    def apply(self, given: Given, *, namespace: str = "default") -> None:
        """Add objects, or replace those of the same kind, namespace and name; return when all clients have them.

        Args:
            given: A text of YAML, a `Path` of a file or folder, an object as a dict, or several of them.
            namespace: Of objects that name none.

        Raises:
            ConfigError: Some of it is wrong: nothing of it is applied. It says which document, field and line.
            TimeoutError: A client has not taken it in time.
        """
        with self._lock:
            known = set(self._folder.state.errors)
            before = self._objects.put(find_objects(given, namespace))
            self._folder.read()
            found = [text for text in self._folder.state.errors if text not in known]
            if found:
                told = "; ".join(map(self._objects.told, found))
                self._objects.restore(before)
                self._folder.read()
                raise ConfigError("not applied", told)
            self._log_warnings()
            self._publish()
        self.wait()

    def delete(self, given: Given | str, name: str = "", *, namespace: str = "default") -> None:
        """Delete objects: those that were applied by the same `given`, or one by its kind and name.

        Args:
            given: As for `apply`; or, with `name`, a kind such as `VirtualService`.
            name: Of the one object.
            namespace: Of that one, or of objects that name none.

        Raises:
            LookupError: There is no such object.
            TimeoutError: A client has not taken it in time.
        """
        keys = [(str(given), namespace, name)] if name else [one.key for one in find_objects(given, namespace)]
        with self._lock:
            self._delete(keys)
        self.wait()

    def set(self, *resources: Raw) -> None:
        """Serve xDS resources as they are, bad ones too, in place of those of the same type and name.

        Args:
            *resources: Messages of Envoy's API, or dicts in the shape of their JSON with an `@type`.

        Raises:
            ConfigError: One is of a type that is not served, or has no name or an unknown field.
            TimeoutError: A client has not answered in time; to refuse one is an answer.
        """
        made = dict(map(key_of, resources))
        with self._lock:
            self._raw = {**self._raw, **made}
            self._publish()
        self.wait()

    def unset(self, *resources: Raw) -> None:
        """Serve resources no more. What else has their names is served again.

        Args:
            *resources: As for `set`.

        Raises:
            ConfigError: One is of a type that is not served, or has no name or an unknown field.
            TimeoutError: A client has not answered in time.
        """
        keys = {key_of(one)[0] for one in resources}
        with self._lock:
            self._raw = {key: packed for key, packed in self._raw.items() if key not in keys}
            self._publish()
        self.wait()

    @property
    def warnings(self) -> list[str]:
        """What of the objects in use has no effect, or is not as it was meant."""
        return [self._objects.told(one.text) for one in self._folder.state.problems if not one.is_error]

    # What clients say.

    @property
    def acks(self) -> list[Ack]:
        """What clients have taken, in order, since `forget_answers`."""
        return [one for one in self._ads.answers if isinstance(one, Ack)]

    @property
    def nacks(self) -> list[Nack]:
        """What clients have refused, in order, since `forget_answers`."""
        return [one for one in self._ads.answers if isinstance(one, Nack)]

    @property
    def clients(self) -> list[str]:
        """The node ids of the clients that are connected."""
        return self._ads.clients

    def subscriptions(self, client: str) -> Mapping[str, Names]:
        """The names that a client asks for, by type (as of an `Ack`); `*` stands for all.

        Args:
            client: Its node's id, one of `clients`.
        """
        return self._ads.asked_for(client)

    def forget_answers(self) -> None:
        """Forget what clients have answered so far."""
        self._ads.forget()

    def wait(self) -> None:
        """Wait until each client has what is served, has answered to it, and what it brought is in use.

        For clients that are meshes of this control plane, `in use` is by requests of httpx and by servers; gRPC
        channels follow at their next look. Nothing is waited for while it is stopped.

        Raises:
            TimeoutError: It takes longer than `wait_seconds`; it says who waits for what.
        """
        ends = time.monotonic() + self.wait_seconds
        while self._server is not None:
            owed = self._ads.wait_quiet(ends) or owed_by(self._meshes, self._ads, ends)
            if not owed and not self._ads.wait_quiet(ends):
                return
            if time.monotonic() > ends:
                raise TimeoutError(f"not in effect after {self.wait_seconds:g} s: {owed}")
            time.sleep(0.002)

    # Outages.

    def stop(self) -> None:
        """Be away: streams end, and the port refuses connections. Safe to call again."""
        server, self._server = self._server, None
        if server is not None:
            self._ads.close()
            server.stop(0).wait()

    def start(self) -> None:
        """Be back on the same port, and wait until the clients have found that out, which takes them a second or two.

        Raises:
            TimeoutError: They have not in time.
        """
        with self._lock:
            if self._server is not None:
                return
            server = grpc.server(
                ThreadPoolExecutor(_MAX_STREAMS, thread_name_prefix="meshsdk-testing-ads"),
                options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 64 << 20)],
            )
            self._ads.add_to(server)
            server.add_insecure_port(self.address)
            server.start()
            self._server = server
        self.wait()

    def close(self) -> None:
        """Stop the services, the meshes and the server, and leave nothing."""
        for service in self._services:
            service.begin_to_stop()
        for service in self._services:
            service.close()
        for mesh in self._meshes:
            mesh.close()
        self._services, self._meshes = [], []
        self.stop()
        self._held.close()
        self._place.cleanup()

    # Who is on the mesh.

    @property
    def address(self) -> str:
        """Where it listens: `host:port`."""
        return f"{HOST}:{self._held.port}"

    def bootstrap(
        self,
        name: str = "test",
        *,
        namespace: str = "default",
        labels: Mapping[str, str] | None = None,
        incremental: bool | None = None,
    ) -> dict[str, Any]:
        """gRPC's bootstrap for a client of this control plane, such as another process's.

        Args:
            name: Of the workload.
            namespace: Of the workload.
            labels: Of the workload.
            incremental: Ask in that variant; None is as the control plane was made.
        """
        is_incremental = self.incremental if incremental is None else incremental
        server = {
            "server_uri": self.address,
            "channel_creds": [{"type": "insecure"}],
            "server_features": ["xds_v3", *(["meshsdk.incremental"] if is_incremental else [])],
        }
        node = {
            "id": f"sidecar~{HOST}~{name}.{namespace}~{namespace}.svc.cluster.local",
            "cluster": f"{name}.{namespace}",
            "metadata": {"GENERATOR": "grpc", "NAMESPACE": namespace, "LABELS": dict(labels or {"app": name})},
        }
        return {
            "xds_servers": [server],
            "node": node,
            "server_listener_resource_name_template": SERVER_LISTENER_TEMPLATE,
        }

    def identity(self, service_account: str = "default", namespace: str = "default") -> SignedIdentity:
        """The identity of a service account, by this control plane's own authority; for `Mesh(identity=…)`.

        Args:
            service_account: Whose.
            namespace: Of the service account.
        """
        with self._lock:
            if self._authority is None:
                self._authority = CertificateAuthority.make()
            spiffe_id = f"spiffe://cluster.local/ns/{namespace}/sa/{service_account}"
            found = self._identities.get(spiffe_id)
            if found is None:
                found = self._identities[spiffe_id] = SignedIdentity(self._authority, spiffe_id)
            return found

    def mesh(
        self,
        name: str = "test",
        *,
        namespace: str = "default",
        service_account: str = "",
        labels: Mapping[str, str] | None = None,
        unknown_hosts: Literal["allow", "deny"] = "deny",
        **options: Any,
    ) -> Mesh:
        """A workload's place on the mesh, which is closed with the control plane.

        Args:
            name: Of the workload.
            namespace: Of the workload: rules of its own namespace hold for it, and short names are of there.
            service_account: Who it is to others; by default called as the workload is.
            labels: Of the workload, for rules that look at their client's; by default `app` and its name.
            unknown_hosts: A test asks nobody outside of its mesh, unless it says so.
            **options: Others of `meshsdk.Mesh`.
        """
        with self._lock:
            count = self._counts[name, namespace] = self._counts.get((name, namespace), 0) + 1
        bootstrap = self.bootstrap(name, namespace=namespace, labels=labels)
        if count > 1:
            bootstrap["node"]["id"] = bootstrap["node"]["id"].replace(f"~{name}.", f"~{name}-{count}.")
        made = Mesh(
            bootstrap=bootstrap,
            identity=self.identity(service_account or name, namespace),
            unknown_hosts=unknown_hosts,
            **options,
        )
        self._meshes.append(made)
        return made

    def service(
        self,
        name: str,
        app: Any,
        *,
        namespace: str = "default",
        port: int = 80,
        version: str = "",
        labels: Mapping[str, str] | None = None,
        service_account: str = "",
        mtls: Literal["STRICT", "PERMISSIVE", "DISABLE"] | None = None,
    ) -> MeshService:
        """Run an application as an instance of a service; return when clients of the mesh can ask for it.

        Args:
            name: Of the service. A Service of that name that was applied stays as it is; else one is made.
            app: ASGI or WSGI.
            namespace: Of the service.
            port: Of the service; the instance listens on a port of its own.
            version: The label `version`, by which subsets are told apart.
            labels: Other labels of the instance.
            service_account: Who it is to others; by default called as the service is.
            mtls: Have a PeerAuthentication with this mode for the service. Without any, servers take both, and clients
                of the mesh speak mutual TLS.

        Raises:
            MeshError: The application does not start, or a Service that was applied does not fit.
        """
        held = HeldPort()
        account = service_account or name
        try:
            keys, all_labels = self._register(
                Workload(name, namespace, port, "http", _labels(version, labels), account, mtls), held.port
            )
            mesh = self.mesh(name, namespace=namespace, service_account=account, labels=all_labels)
        except BaseException:
            held.close()
            raise
        made = MeshService(app, mesh, held, name, namespace, port, lambda: self._deregister(keys))
        self._services.append(made)
        made.start()
        return made

    def register(
        self,
        name: str,
        own_port: int,
        *,
        namespace: str = "default",
        port: int = 80,
        protocol: str = "http",
        version: str = "",
        labels: Mapping[str, str] | None = None,
        service_account: str = "",
    ) -> None:
        """Make a server that runs on the loopback already, such as one of gRPC, an instance of a service.

        Args:
            name: Of the service.
            own_port: That the server listens on.
            namespace: Of the service.
            port: Of the service.
            protocol: That it speaks: `http`, `http2`, `grpc`, …
            version: The label `version`.
            labels: Other labels of the instance.
            service_account: Whom clients expect there over mutual TLS; without one they speak plaintext.
        """
        self._register(Workload(name, namespace, port, protocol, _labels(version, labels), service_account), own_port)

    def __enter__(self) -> ControlPlane:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _register(self, workload: Workload, own_port: int) -> tuple[list[ObjectKey], dict[str, str]]:
        with self._lock:
            known = self._objects.get(("Service", workload.namespace, workload.service))
            objects, labels = make_objects(workload, f"{workload.service}-{own_port}", own_port, known)
            self.apply(objects)
        return [("WorkloadEntry", workload.namespace, f"{workload.service}-{own_port}")], labels

    def _deregister(self, keys: list[ObjectKey]) -> None:
        with self._lock:
            self._delete([key for key in keys if key in self._objects])
        self.wait()

    def _delete(self, keys: Iterable[ObjectKey]) -> None:
        missing = [key for key in keys if key not in self._objects]
        if missing:
            kind, namespace, name = missing[0]
            raise LookupError(f"there is no {kind} {namespace}/{name}")
        self._objects.remove(keys)
        self._folder.read()
        self._publish()

    def _publish(self) -> None:
        self._number += 1
        self._ads.publish(self._generation())

    def _generation(self) -> Generation:
        return Generation(self._number, self._folder.state, self._raw)

    def _log_warnings(self) -> None:
        for text in self.warnings:
            logger.warning("%s", text)


def _labels(version: str, labels: Mapping[str, str] | None) -> dict[str, str]:
    return {**({"version": version} if version else {}), **(labels or {})}
