"""Fixtures: real servers, meshes over folders of YAML, control planes."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import meshsdk
from meshsdk.controlplane.raw import _MODULES
from tests.certificates import SpiffeCa
from tests.patience import have_patience
from tests.processes import OF_THE_MACHINE
from tests.servers import EchoServer

have_patience()

# A busy machine takes its time for an example, and to make one. The examples are the same in each run, so that a run
# fails for what was changed; `make soak` looks for others.
settings.register_profile("explore", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("tests", settings.get_profile("explore"), derandomize=True)
settings.load_profile("tests")

MakeMesh = Callable[..., meshsdk.Mesh]

# Tests write configuration as JSON, which names types of extensions by URL; protobuf knows those that are loaded.
for _package, _names in _MODULES.items():
    for _name in _names.split():
        importlib.import_module(f"{_package}.{_name}_pb2")


# Files that take a minute of one worker, or a good part of it. They begin first, so that all workers end together.
_LONG = (
    "tests/differential/test_raw_requests.py",
    "tests/faults/test_faults.py",
    "tests/http/test_hostile_peers.py",
    "tests/server/test_attack_table.py",
    "tests/server/test_exhaustion.py",
    "tests/xds/test_torture.py",
    "tests/interop/test_grpc_scenarios.py",
    "tests/stories/test_stories.py",
    "tests/grpc/test_mutual_tls.py",
    "tests/server/test_mutual_tls_matrix.py",
    "tests/differential/test_inbound_behaviour.py",
    "tests/differential/test_generated_routes.py",
    "tests/differential/test_load_balancing.py",
    "tests/test_examples.py",
    "tests/docs/test_blocks.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long files first; everything else stays in its order."""
    ranks = {name: rank for rank, name in enumerate(_LONG)}
    items.sort(key=lambda item: ranks.get(item.nodeid.partition("::")[0], len(ranks)))


@pytest.fixture(scope="session", autouse=True)
def _one_authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Clients that are told of no authority trust one: httpx reads all 140 of the outside for each client."""
    path = tmp_path_factory.mktemp("trust") / "authority.pem"
    path.write_bytes(SpiffeCa().pem)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(path))
        yield


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No configuration of the machine's own reaches a test."""
    for name in list(os.environ):
        if name.startswith(OF_THE_MACHINE) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether peers of open connections are trusted still is looked at ten times a second, not every two."""
    monkeypatch.setattr("meshsdk.rotation._SECONDS", 0.1)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Closes at the test's end whatever is entered into it."""
    with ExitStack() as one:
        yield one


@pytest.fixture
def echo(stack: ExitStack) -> Callable[[str], EchoServer]:
    """Starts echo servers by name."""
    return lambda name="": stack.enter_context(EchoServer(name))


@pytest.fixture
def make_mesh(tmp_path: Path, stack: ExitStack) -> MakeMesh:
    """A mesh over the YAML given, in the folder `tmp_path/mesh`."""

    def make(yaml: str, **options: object) -> meshsdk.Mesh:
        folder = tmp_path / "mesh"
        folder.mkdir(exist_ok=True)
        (folder / "mesh.yaml").write_text(yaml)
        return stack.enter_context(meshsdk.Mesh(config=folder, **options))

    return make


def service(name: str, *ports: int, versions: dict[int, str] | None = None, port: int = 80) -> str:
    """YAML of a Service whose endpoints are ports on loopback."""
    parts = [
        f"apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n"
        f"spec: {{selector: {{app: {name}}}, ports: [{{name: http, port: {port}}}]}}\n"
    ]
    for endpoint in ports:
        version = f", version: {versions[endpoint]}" if versions else ""
        parts.append(
            f"apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{name: {name}-{endpoint}}}\n"
            f"spec: {{address: 127.0.0.1, labels: {{app: {name}{version}}}, ports: {{http: {endpoint}}}}}\n"
        )
    return "---\n".join(parts)


def virtual_service(host: str, http: str) -> str:
    """YAML of a VirtualService; `http` is the list, as YAML in flow style."""
    return (
        f"---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {host}}}\n"
        f"spec: {{hosts: [{host}], http: {http}}}\n"
    )


def destination_rule(host: str, body: str) -> str:
    """YAML of a DestinationRule."""
    return (
        f"---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {host}}}\n"
        f"spec: {{host: {host}, {body}}}\n"
    )
