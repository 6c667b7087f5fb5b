"""Fixtures: a control plane that comes and goes on one port."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import meshsdk
from meshsdk.controlplane.folder import Folder
from meshsdk.controlplane.server import ControlPlaneServer

from ..processes import free_ports

__all__ = ["Plane"]


class Plane:
    """A control plane over a folder that is started and stopped, always on the same port.

    Attributes:
        bootstrap: Of its clients.
        cache: The folder where they keep what it says.
    """

    def __init__(self, folder: Path, features: list[str]) -> None:
        self.folder, self.cache = folder / "plane", folder / "cache"
        self.folder.mkdir()
        [self.port] = free_ports(1)
        credentials = [{"type": "insecure"}]
        server = {"server_uri": f"127.0.0.1:{self.port}", "channel_creds": credentials, "server_features": features}
        self.bootstrap: dict[str, Any] = {"xds_servers": [server], "node": {"id": "test"}}

    def write(self, yaml: str) -> None:
        """What it serves from its next start on."""
        (self.folder / "mesh.yaml").write_text(yaml)

    @contextmanager
    def running(self) -> Iterator[None]:
        """It is there until the block ends."""
        server = ControlPlaneServer(Folder(self.folder), f"127.0.0.1:{self.port}")
        server.start()
        try:
            yield
        finally:
            server.stop(0)

    def mesh(self, **options: Any) -> meshsdk.Mesh:
        """A client of it."""
        return meshsdk.Mesh(bootstrap=self.bootstrap, cache_dir=self.cache, **options)

    def kept(self, *urls: str) -> None:
        """A client uses these while the server is there, and is gone."""
        with self.running(), self.mesh() as mesh, mesh.client() as client:
            for url in urls:
                assert client.get(url).status_code == 200

    @property
    def file(self) -> Path:
        """What was kept."""
        [path] = self.cache.glob("*.resources")
        return path


@pytest.fixture(params=[[], ["meshsdk.incremental"]], ids=["state of the world", "incremental"])
def plane(tmp_path: Path, request: pytest.FixtureRequest) -> Plane:
    """In both variants."""
    return Plane(tmp_path, request.param)


@pytest.fixture
def one_plane(tmp_path: Path) -> Plane:
    """For what does not depend on the variant."""
    return Plane(tmp_path, [])
